//! The tenant's index database (Turso, libSQL), asked one cheap question: `SELECT 1` with the tenant's token.
//!
//! The crate libsql has three habits that a supervisor cannot live with, and each is fenced off here:
//! * No timeouts anywhere. Every call runs under `tokio::time::timeout`.
//! * Its default connector panics without a readable CA bundle, even for `http://`. Plain HTTP gets a connector of its
//!   own, and for `https://` the bundle is loaded once before, by the same function.
//! * It unwraps the UTF-8 of an error page. The call runs in a task of its own, so that such a page is an error and
//!   not the end of the supervisor.
//!
//! `execute_batch` sends statement and close as one request, where `query` would describe the statement first: one
//! round trip. Failures come back as text only; the HTTP status in it decides.

mod error;

use std::fmt;
use std::time::{Duration, Instant};

use hyper014::client::HttpConnector;
use secrecy::{ExposeSecret, SecretString};

use crate::credentials;
use crate::storage::network;
pub use error::IndexError;

/// What a successful probe saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// From the request to its answer, a new connection included.
    pub latency: Duration,
}

/// The index database and its token. Cheap to clone: clones share their connections.
#[derive(Clone)]
pub struct Database {
    connection: libsql::Connection,
    target: Target,
}

/// What a message may say, and the secret it must not.
#[derive(Clone)]
struct Target {
    /// Without user information and query.
    url: String,
    host: String,
    token: Option<SecretString>,
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database")
            .field("url", &self.target.url)
            .finish_non_exhaustive()
    }
}

impl Database {
    /// How long a probe may take before the database counts as unreachable.
    pub const PROBE_TIMEOUT: Duration = Duration::from_secs(6);

    /// Prepares the client. Sends nothing; for an `https` URL it reads the machine's CA certificates (10 ms).
    ///
    /// # Errors
    /// [`IndexError::BadUrl`] and [`IndexError::NoCertificates`].
    pub async fn connect(index: &credentials::Index) -> Result<Database, IndexError> {
        let url = index.url.replacen("libsql://", "https://", 1);
        let endpoint = network::Endpoint::parse(&url).ok_or_else(|| IndexError::BadUrl {
            url: network::without_userinfo(&index.url),
        })?;
        let target = Target {
            url: endpoint.shown.clone(),
            host: endpoint.host,
            token: index.auth_token.clone(),
        };
        let token = index.auth_token.as_ref().map_or("", |token| token.expose_secret());
        let builder = libsql::Builder::new_remote(url, token.to_owned());
        let built = if endpoint.tls {
            network::certificates().map_err(|reason| IndexError::NoCertificates {
                url: endpoint.shown,
                reason,
            })?;
            builder.build().await
        } else {
            let mut http = HttpConnector::new();
            http.set_nodelay(true);
            builder.connector(http).build().await
        };
        let connection = built
            .and_then(|database| database.connect())
            .map_err(|error| error::classify(&error.to_string(), &target, Self::PROBE_TIMEOUT))?;
        Ok(Database { connection, target })
    }

    /// Runs `SELECT 1`: proves token, database and network. Returns within `limit`.
    ///
    /// # Errors
    /// An [`IndexError`] that says which of them failed; [`IndexError::exit`] is the exit code it deserves.
    pub async fn probe(&self, limit: Duration) -> Result<Probe, IndexError> {
        let started = Instant::now();
        let connection = self.connection.clone();
        let call = tokio::spawn(async move { tokio::time::timeout(limit, connection.execute_batch("SELECT 1")).await });
        match call.await {
            Ok(Ok(Ok(_))) => Ok(Probe {
                latency: started.elapsed(),
            }),
            Ok(Ok(Err(failure))) => Err(error::classify(&failure.to_string(), &self.target, limit)),
            Ok(Err(_elapsed)) => Err(error::silent(&self.target, limit)),
            Err(_panicked) => Err(error::not_libsql(&self.target)),
        }
    }

    /// The URL, without user information and query.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.target.url
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Exit;

    fn index(url: &str) -> credentials::Index {
        credentials::Index {
            url: url.into(),
            auth_token: Some("TOKENEXAMPLE".to_owned().into()),
        }
    }

    #[tokio::test]
    async fn a_url_of_another_kind_is_a_configuration_error() {
        for url in ["", "db.turso.io", "postgres://host/db", "file:index.db"] {
            let error = Database::connect(&index(url)).await.unwrap_err();
            assert_eq!(error.exit(), Exit::Config, "{url}: {error}");
        }
    }

    #[tokio::test]
    async fn debug_shows_no_token() {
        let database = Database::connect(&index("http://x:TOKENEXAMPLE@127.0.0.1:1?authToken=TOKENEXAMPLE"))
            .await
            .unwrap();
        let shown = format!("{database:?} {}", database.url());
        assert!(!shown.contains("TOKENEXAMPLE"), "{shown}");
    }
}
