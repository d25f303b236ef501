//! Requests to the two administration APIs: bounded in time and size, tried again when that can help.
//!
//! No redirect is followed, because it would hand the credentials to whoever it names. `Retry-After` is obeyed up to a
//! minute. What a service says in an error is shown in one short line: an error never repeats our credentials, because
//! they are taken out of it.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use reqwest::header::HeaderMap;
use secrecy::{ExposeSecret, SecretString};

use super::error::ProvisionError;
use crate::credentials::retry_after;
use crate::exit::Exit;
use crate::storage::network::{self, Endpoint, Reason};

/// Longer answers are not read: a page of a list has a thousand entries.
const LARGEST: usize = 16 * 1024 * 1024;
const CONNECT: Duration = Duration::from_secs(5);
const ATTEMPT: Duration = Duration::from_secs(20);
/// All attempts and the pauses between them.
const OPERATION: Duration = Duration::from_secs(150);
const FURTHER_ATTEMPTS: usize = 4;
const PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(8);
/// A service that wants to be left alone for longer is not waited for.
const LONGEST_WISH: Duration = Duration::from_secs(60);

/// May a request be sent again that perhaps was served?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Twice {
    /// Doing it twice is like doing it once.
    Harmless,
    /// Only when the service says that it did nothing (429).
    Never,
}

/// A service.
pub(super) struct Service {
    client: reqwest::Client,
    endpoint: Endpoint,
    /// For messages: `Tigris IAM`.
    name: &'static str,
    /// What to do about refused credentials.
    advice: &'static str,
    secrets: [SecretString; 2],
}

/// What was answered, whatever the status.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

impl Answer {
    pub(super) fn is_good(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

impl Service {
    /// # Errors
    /// Without certificates for an `https` endpoint.
    pub(super) fn new(
        name: &'static str,
        endpoint: &str,
        advice: &'static str,
        secrets: [SecretString; 2],
    ) -> Result<Service, ProvisionError> {
        let wrong = |why: String, todo: &str| ProvisionError::new(Exit::Machine, format!("asking {name}"), why, todo);
        let endpoint = Endpoint::parse(endpoint).ok_or_else(|| {
            wrong(
                "its address is no URL".to_owned(),
                "correct the variable for its endpoint",
            )
        })?;
        // reqwest is built without a TLS provider and takes the process's. Installing fails only if there is one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .connect_timeout(CONNECT)
            .timeout(ATTEMPT)
            .user_agent(concat!("tenant-provision/", env!("CARGO_PKG_VERSION")));
        if endpoint.tls {
            network::certificates().map_err(|why| wrong(why, network::CERTIFICATES_ADVICE))?;
        } else {
            // Plain HTTP must work on a machine without CA certificates, whose absence fails the builder.
            builder = builder.tls_certs_only(std::iter::empty());
        }
        let client = builder
            .build()
            .map_err(|error| wrong(network::chain(&error), network::CERTIFICATES_ADVICE))?;
        Ok(Service {
            client,
            endpoint,
            name,
            advice,
            secrets,
        })
    }

    pub(super) fn client(&self) -> &reqwest::Client {
        &self.client
    }

    /// `path` of the service.
    pub(super) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.endpoint.shown)
    }

    /// An answer of any status but 429 and 5xx. `make` is asked for each attempt: a signature has a time.
    ///
    /// # Errors
    /// When there is none after all attempts.
    pub(super) async fn send<M>(&self, what: &str, twice: Twice, make: M) -> Result<Answer, ProvisionError>
    where
        M: Fn() -> Result<reqwest::Request, String>,
    {
        let tried = async {
            let mut pauses = ExponentialBuilder::new()
                .with_min_delay(PAUSE)
                .with_max_delay(LONGEST_PAUSE)
                .with_max_times(FURTHER_ATTEMPTS)
                .with_jitter()
                .build();
            loop {
                let request = make().map_err(|why| self.wrong(what, Exit::Bug, &why, "report this"))?;
                let (error, wish, served) = match self.attempt(request).await {
                    Ok(answer) if answer.status == 429 => {
                        let wish = retry_after(&answer.headers);
                        (self.refused(what, &answer, None), wish, false)
                    }
                    Ok(answer) if answer.status >= 500 => {
                        let wish = retry_after(&answer.headers);
                        (self.refused(what, &answer, None), wish, true)
                    }
                    Ok(answer) => return Ok(answer),
                    Err(reason) => {
                        let why = format!("{}: {reason}", self.endpoint.shown);
                        (self.wrong(what, Exit::Unavailable, &why, &reason.advice()), None, true)
                    }
                };
                let again = twice == Twice::Harmless || !served;
                match pauses.next() {
                    Some(pause) if again && wish.is_none_or(|wish| wish <= LONGEST_WISH) => {
                        tokio::time::sleep(wish.map_or(pause, |wish| wish.max(pause))).await;
                    }
                    _ => return Err(error),
                }
            }
        };
        let late = || {
            let why = format!("{} did not do it within {}", self.name, network::seconds(OPERATION));
            self.wrong(what, Exit::Unavailable, &why, "give the command again later")
        };
        tokio::time::timeout(OPERATION, tried)
            .await
            .unwrap_or_else(|_| Err(late()))
    }

    async fn attempt(&self, request: reqwest::Request) -> Result<Answer, Reason> {
        let broken = |error: reqwest::Error| {
            let chain = self.redact(&network::chain(&error.without_url()));
            Reason::from_text(&chain, &self.endpoint.host, CONNECT, ATTEMPT)
        };
        let mut answer = self.client.execute(request).await.map_err(broken)?;
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(broken)? {
            if body.len() + chunk.len() > LARGEST {
                return Err(Reason::Other(format!("its answer has more than {LARGEST} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Answer {
            status: answer.status().as_u16(),
            headers: std::mem::take(answer.headers_mut()),
            body,
        })
    }

    /// What it means that the service refused `what`; `said` in its words.
    pub(super) fn refused(&self, what: &str, answer: &Answer, said: Option<&str>) -> ProvisionError {
        let said = said.map_or_else(String::new, |said| format!(": {said}"));
        let why = format!("{} answered {}{said}", self.name, answer.status);
        match answer.status {
            401 | 403 => self.wrong(what, Exit::Refused, &why, self.advice),
            402 => self.wrong(
                what,
                Exit::Refused,
                &why,
                "the account cannot make more: look at its plan",
            ),
            429 => self.wrong(
                what,
                Exit::Unavailable,
                &why,
                "wait, then give the command again: it goes on",
            ),
            500.. => self.wrong(
                what,
                Exit::Unavailable,
                &why,
                "give the command again later: it goes on",
            ),
            _ => self.wrong(
                what,
                Exit::Config,
                &why,
                "look at the names and addresses in the environment (--help)",
            ),
        }
    }

    /// An answer with a good status that is not what the documentation says.
    pub(super) fn strange(&self, what: &str, missing: &str) -> ProvisionError {
        let why = format!("{} answered without {missing}", self.name);
        self.wrong(what, Exit::Config, &why, "check the address of the service (--help)")
    }

    fn wrong(&self, what: &str, exit: Exit, why: &str, todo: &str) -> ProvisionError {
        ProvisionError::new(exit, what, network::shorten(&self.redact(why)), todo)
    }

    fn redact(&self, text: &str) -> String {
        network::redact(text, &self.secrets.each_ref().map(|secret| secret.expose_secret()))
    }
}

#[cfg(test)]
impl Answer {
    /// A good answer with this body.
    pub(super) fn of(body: &str) -> Answer {
        Answer {
            status: 200,
            headers: HeaderMap::new(),
            body: body.as_bytes().to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Asks a service that gives these answers in turn: what comes of it, how often it was asked, and how long it took.
    async fn ask(answers: &[&str], twice: Twice) -> (Result<Answer, ProvisionError>, usize, Duration) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let asked = AtomicUsize::new(0);
        let serve = async {
            loop {
                let (mut connection, _) = listener.accept().await.unwrap();
                let turn = asked.fetch_add(1, Ordering::Relaxed).min(answers.len() - 1);
                let _ = connection.read(&mut [0; 4096]).await;
                let answer = format!(
                    "HTTP/1.1 {}Content-Length: 0\r\nConnection: close\r\n\r\n",
                    answers[turn]
                );
                connection.write_all(answer.as_bytes()).await.unwrap();
            }
        };
        let secrets = ["SECRETEXAMPLE".to_owned().into(), String::new().into()];
        let service = Service::new("it", &address, "look", secrets).unwrap();
        let started = std::time::Instant::now();
        let make = || Ok(service.client().get(service.url("/")).build().unwrap());
        let answer = tokio::select! {
            answer = service.send("asking", twice, make) => answer,
            () = serve => unreachable!(),
        };
        (answer, asked.load(Ordering::Relaxed), started.elapsed())
    }

    #[tokio::test]
    async fn a_busy_service_is_asked_again_when_it_wishes() {
        let (answer, asked, took) = ask(&["429 X\r\nRetry-After: 2\r\n", "200 OK\r\n"], Twice::Never).await;
        assert_eq!((answer.unwrap().status, asked), (200, 2));
        assert!(took >= Duration::from_secs(2), "{took:?}");
    }

    #[tokio::test]
    async fn who_asks_for_an_hour_is_not_waited_for() {
        let (answer, asked, _) = ask(&["503 X\r\nRetry-After: 3600\r\n"], Twice::Harmless).await;
        assert_eq!((answer.unwrap_err().exit, asked), (Exit::Unavailable, 1));
    }

    #[tokio::test]
    async fn what_may_have_been_done_is_not_done_again() {
        let (answer, asked, _) = ask(&["500 X\r\n"], Twice::Never).await;
        assert_eq!((answer.unwrap_err().exit, asked), (Exit::Unavailable, 1));
        let (answer, asked, _) = ask(&["500 X\r\n", "200 OK\r\n"], Twice::Harmless).await;
        assert_eq!((answer.unwrap().status, asked), (200, 2));
    }

    #[tokio::test]
    async fn each_refusal_has_its_exit_code_and_no_secret() {
        for (status, exit) in [
            (401, Exit::Refused),
            (403, Exit::Refused),
            (402, Exit::Refused),
            (404, Exit::Config),
        ] {
            let secrets = ["SECRETEXAMPLE".to_owned().into(), String::new().into()];
            let service = Service::new("it", "http://127.0.0.1:1", "look", secrets).unwrap();
            let answer = Answer {
                status,
                ..Answer::of("")
            };
            let error = service.refused("asking", &answer, Some("your SECRETEXAMPLE is odd"));
            assert_eq!(error.exit, exit);
            assert!(!error.to_string().contains("SECRETEXAMPLE"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_service_that_is_not_there_is_named() {
        let secrets = [String::new().into(), String::new().into()];
        let service = Service::new("it", "http://127.0.0.1:1", "look", secrets).unwrap();
        let make = || Ok(service.client().get(service.url("/")).build().unwrap());
        let error = service.send("asking", Twice::Never, make).await.unwrap_err();
        assert_eq!(error.exit, Exit::Unavailable);
        assert!(error.to_string().contains("127.0.0.1:1: connection refused"), "{error}");
    }
}
