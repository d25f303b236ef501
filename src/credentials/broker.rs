//! Source `broker`: GET the bundle over HTTP with a bearer token.
//!
//! One deadline (`credentials.timeout`) covers everything, the token included. Each attempt has its own, shorter
//! limit, so that one silent server costs one attempt and not the start. Only what may pass by itself is tried again:
//! no connection, no answer, 429 and 5xx; the delay is exponential with full jitter
//! (<https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/>), because all tenants of a host ask
//! again at the same time after a broker's outage. `Retry-After` is obeyed. A redirect is refused: following it would
//! hand the token to whoever it names.
//!
//! The answer is not trusted: it is bounded, parsed strictly and never repeated in an error.

mod fly;
mod http;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use jiff::Timestamp;
use reqwest::{Client, StatusCode, Url};
use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;

use super::error::{CredentialsError, Fault, Origin};
use super::{Bundle, bundle, secret};
use crate::config::Environment;
use http::Failure;
pub(crate) use http::retry_after;

/// Where the bundle is and how long it may take.
pub(super) struct Broker<'a> {
    /// URL of the bundle.
    pub url: &'a str,
    /// Audience of the Fly OIDC token.
    pub audience: &'a str,
    /// Deadline for everything.
    pub timeout: Duration,
    /// Fly's machine API.
    pub fly_api: &'a Path,
}

/// The variable with the bearer token.
const TOKEN: &str = "TENANT_CREDENTIALS_TOKEN";
/// First upper bound of the delay between two attempts; doubles.
const FIRST_DELAY: Duration = Duration::from_millis(200);
/// Largest upper bound of the delay.
const LONGEST_DELAY: Duration = Duration::from_secs(5);

/// Asks the broker.
pub(super) async fn fetch(
    broker: &Broker<'_>,
    tenant: Option<&str>,
    environment: &Environment,
) -> Result<Bundle, CredentialsError> {
    let deadline = Instant::now() + broker.timeout;
    let url: Url = broker.url.parse().map_err(|_| {
        let fault = Fault::new(
            "TENANT_CREDENTIALS_URL",
            "is not a URL",
            "set it to the URL of the bundle",
        );
        wrong(Origin::Broker("(unknown)".to_owned()), fault)
    })?;
    let origin = Origin::Broker(url.origin().ascii_serialization());
    let given = secret::read(environment, TOKEN)
        .await
        .map_err(|fault| wrong(origin.clone(), fault))?;
    let client = http::client(&url).map_err(|fault| wrong(origin.clone(), fault))?;
    let mut session = Session {
        broker,
        client,
        url,
        token: given.map(Token::Given),
        deadline,
    };
    let mut delays = ExponentialBuilder::new()
        .with_factor(2.0)
        .with_min_delay(FIRST_DELAY)
        .with_max_delay(LONGEST_DELAY)
        .without_max_times()
        .build();
    loop {
        let (fault, after) = match session.attempt().await {
            Ok(body) => return bundle::parse(&body, origin, tenant, Timestamp::now()),
            Err(Failure::Wrong(fault)) => return Err(wrong(origin, fault)),
            Err(Failure::Refused(fault)) => return Err(CredentialsError::Refused { origin, fault }),
            Err(Failure::Again { fault, after }) => (fault, after),
        };
        // The server's own wish is a lower bound: jitter may only add to it.
        let delay = after.unwrap_or_default() + full_jitter(delays.next().unwrap_or(LONGEST_DELAY));
        if Instant::now() + delay >= deadline {
            return Err(CredentialsError::Unavailable { origin, fault });
        }
        tracing::warn!(%fault, delay_ms = delay.as_millis(), "the credentials broker is asked again");
        tokio::time::sleep(delay).await;
    }
}

fn wrong(origin: Origin, fault: Fault) -> CredentialsError {
    CredentialsError::Wrong {
        origin,
        faults: vec![fault],
    }
}

/// Anything from nothing to `bound`.
fn full_jitter(bound: Duration) -> Duration {
    bound.mul_f64(fastrand::f64())
}

/// The bearer token and where it is from.
enum Token {
    /// `TENANT_CREDENTIALS_TOKEN[_FILE]`.
    Given(SecretString),
    /// Fly's machine API. Valid for minutes, so it serves all attempts.
    Fly(SecretString),
}

/// What is kept from one attempt to the next.
struct Session<'a> {
    broker: &'a Broker<'a>,
    client: Client,
    url: Url,
    token: Option<Token>,
    deadline: Instant,
}

impl Session<'_> {
    /// One GET. The body of a 200.
    async fn attempt(&mut self) -> Result<Vec<u8>, Failure> {
        let token = match self.token.take() {
            Some(token) => token,
            None => Token::Fly(fly::token(self.broker.fly_api, self.broker.audience, self.deadline).await?),
        };
        let (Token::Given(secret) | Token::Fly(secret)) = &token;
        let request = self
            .client
            .get(self.url.clone())
            .header(reqwest::header::ACCEPT, "application/json")
            .bearer_auth(secret.expose_secret())
            .timeout(http::attempt_timeout(self.deadline));
        let told = match &token {
            Token::Given(_) => TOKEN,
            Token::Fly(_) => "the Fly OIDC token",
        };
        let response = http::send("the bundle", request).await;
        self.token = Some(token);
        let response = response?;
        match response.status() {
            StatusCode::OK => http::body("the bundle", response, bundle::LARGEST).await,
            status => Err(refusal(status, told, http::retry_after(response.headers()))),
        }
    }
}

/// What an answer other than 200 means.
fn refusal(status: StatusCode, token: &str, after: Option<Duration>) -> Failure {
    let fault = |what: String, todo: &str| Fault::new("the bundle", what, todo);
    let answer = format!("the broker answered {}", status.as_u16());
    match status.as_u16() {
        401 | 403 => Failure::Refused(fault(
            format!("{answer}: it does not accept {token} for this URL"),
            "check the token, and that the broker knows this tenant",
        )),
        404 | 410 => Failure::Wrong(fault(
            format!("{answer}: there is no bundle at this URL"),
            "check TENANT_CREDENTIALS_URL and the tenant's name in it",
        )),
        300..=399 => Failure::Wrong(fault(
            format!("{answer}, a redirect, which is not followed because it would pass the token on"),
            "set TENANT_CREDENTIALS_URL to the bundle's final URL",
        )),
        429 | 500..=599 => Failure::Again {
            fault: fault(answer, "check the broker, then start again"),
            after,
        },
        _ => Failure::Wrong(fault(
            answer,
            "check that TENANT_CREDENTIALS_URL is the URL of a bundle",
        )),
    }
}
