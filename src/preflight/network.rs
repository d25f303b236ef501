//! Credentials, bucket, key, clock and index database: what only the network can answer.

use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};

use super::Finding;
use crate::config::{self, Config};
use crate::credentials::{Bundle, CredentialsError, Fault};
use crate::exit::Exit;
use crate::index::Remote;
use crate::storage::network::without_userinfo;
use crate::storage::{Bucket, StorageError, Timeouts, describe_skew};

const CREDENTIALS: &str = "credentials";
const TENANT: &str = "tenant";
const KEY: &str = "key";
const BUCKET: &str = "bucket";
const CLOCK: &str = "clock";
const DATABASE: &str = "index database";

const NO_CREDENTIALS: &str = "not asked: there are no credentials";

/// S3 refuses a signature that is further off (AWS Signature Version 4).
const CLOCK_LIMIT: SignedDuration = SignedDuration::from_mins(15);
/// Times of files and of the upload queue start to look odd.
const CLOCK_WARNING: SignedDuration = SignedDuration::from_secs(30);
/// Credentials that end sooner may end before the tenant has stored everything.
const EXPIRY_WARNING: SignedDuration = SignedDuration::from_mins(10);

/// Credentials, tenant, key, bucket and clock, in this order.
pub(super) async fn bucket(config: &Config, bundle: Result<&Bundle, &CredentialsError>) -> Vec<Finding> {
    let bundle = match bundle {
        Ok(bundle) => bundle,
        Err(error) => {
            let without = |name| Finding::skipped(name, NO_CREDENTIALS);
            let mut findings = vec![no_credentials(error)];
            findings.extend([TENANT, KEY, BUCKET, CLOCK].map(without));
            return findings;
        }
    };
    let started = Instant::now();
    let (probed, skew) = match Bucket::connect(&bundle.storage, Timeouts::START) {
        Ok(bucket) => (bucket.probe().await, bucket.clock_skew()),
        Err(error) => (Err(error), None),
    };
    let place = format!(
        "{} at {}",
        bundle.storage.bucket,
        without_userinfo(&bundle.storage.endpoint)
    );
    let mut findings = vec![credentials(config, bundle, Timestamp::now()), tenant(config, bundle)];
    let (key, bucket) = judge(probed.map(|probe| probe.latency), &place);
    findings.extend([key, bucket, clock(skew)].map(|finding| finding.since(started)));
    findings
}

/// One answer tells about key and bucket.
fn judge(probed: Result<Duration, StorageError>, place: &str) -> (Finding, Finding) {
    let error = match probed {
        Ok(latency) => {
            let detail = format!("{place} answered in {} ms", latency.as_millis().max(1));
            return (
                Finding::ok(KEY, "accepted (it may list; writing is tried when the mount starts)"),
                Finding::ok(BUCKET, detail),
            );
        }
        Err(error) => error,
    };
    let failed = |name| Finding::failed(name, error.exit(), error.to_string(), error.advice());
    match &error {
        StorageError::Rejected { .. } => (
            failed(KEY),
            Finding::skipped(BUCKET, format!("{place}: not shown to this key")),
        ),
        StorageError::Clock { .. } => (
            failed(KEY),
            Finding::skipped(BUCKET, format!("{place}: not shown to this clock")),
        ),
        // The service looks at the signature before it looks for the bucket.
        StorageError::NoBucket { .. } => (Finding::ok(KEY, "accepted"), failed(BUCKET)),
        StorageError::Unreachable { .. }
        | StorageError::SlowDown { .. }
        | StorageError::Misconfigured { .. }
        | StorageError::BadKey { .. }
        | StorageError::BadEndpoint { .. }
        | StorageError::NoCertificates { .. } => (
            Finding::skipped(KEY, "not tried: no usable answer from the bucket"),
            failed(BUCKET),
        ),
    }
}

fn clock(skew: Option<SignedDuration>) -> Finding {
    let Some(skew) = skew else {
        return Finding::skipped(CLOCK, "nothing answered with a date to compare with");
    };
    let words = || format!("this machine's clock is {} the bucket's", describe_skew(skew));
    let advice = "set the clock (NTP); on a virtual machine also after it was suspended";
    if skew.abs() > CLOCK_LIMIT {
        Finding::failed(
            CLOCK,
            Exit::Refused,
            format!("{}: S3 refuses signatures more than 15 min off", words()),
            advice,
        )
    } else if skew.abs() > CLOCK_WARNING {
        Finding::warning(CLOCK, words(), advice)
    } else {
        // The header has whole seconds.
        Finding::ok(CLOCK, format!("within {} s of the bucket's", skew.abs().as_secs() + 1))
    }
}

fn no_credentials(error: &CredentialsError) -> Finding {
    let (state, origin, faults) = match error {
        CredentialsError::Wrong { origin, faults } => ("wrong", origin, faults.as_slice()),
        CredentialsError::Refused { origin, fault } => ("refused", origin, std::slice::from_ref(fault)),
        CredentialsError::Unavailable { origin, fault } => ("not available", origin, std::slice::from_ref(fault)),
    };
    let list = |part: fn(&Fault) -> String| faults.iter().map(part).collect::<Vec<_>>().join("; ");
    let what = list(|fault| format!("{}: {}", fault.object, fault.what));
    let todo = list(|fault| fault.todo.clone());
    Finding::failed(
        CREDENTIALS,
        error.exit(),
        format!("those from {origin} are {state}: {what}"),
        todo,
    )
}

fn credentials(config: &Config, bundle: &Bundle, now: Timestamp) -> Finding {
    let source = match &config.credentials {
        config::Credentials::Env => "from the environment",
        config::Credentials::File(_) => "from a file",
        config::Credentials::Broker { .. } => "from the broker",
    };
    let Some(expires) = bundle.expires_at else {
        return Finding::ok(CREDENTIALS, format!("{source}, without an end"));
    };
    let left = expires.duration_since(now);
    let renew = "make a new bundle";
    if !left.is_positive() {
        Finding::failed(
            CREDENTIALS,
            Exit::Refused,
            format!("{source}, expired on {expires}"),
            renew,
        )
    } else if left < EXPIRY_WARNING {
        Finding::warning(
            CREDENTIALS,
            format!("{source}, valid for only {} more", span(left)),
            renew,
        )
    } else {
        Finding::ok(CREDENTIALS, format!("{source}, valid for {} more", span(left)))
    }
}

fn span(left: SignedDuration) -> String {
    match left.as_secs() {
        secs @ ..120 => format!("{secs} s"),
        secs @ 120..7200 => format!("{} min", secs / 60),
        secs @ 7200..172_800 => format!("{} h", secs / 3600),
        secs => format!("{} days", secs / 86_400),
    }
}

fn tenant(config: &Config, bundle: &Bundle) -> Finding {
    match (&config.tenant.id, &bundle.tenant_id) {
        (Some(ours), Some(theirs)) if ours != theirs => Finding::failed(
            TENANT,
            Exit::Refused,
            format!("this machine is for tenant {ours}, the credentials are for tenant {theirs}"),
            "give this machine the credentials of its own tenant, or correct TENANT_ID",
        ),
        (Some(id), Some(_)) => Finding::ok(TENANT, format!("{id}, as the credentials say")),
        (Some(id), None) | (None, Some(id)) => Finding::ok(TENANT, format!("{id} (only one side names it)")),
        (None, None) => Finding::skipped(TENANT, "no tenant id is configured"),
    }
}

/// The index database. It holds the lease too, so a tenant that has one does not start without it.
pub(super) async fn database(bundle: Option<&Bundle>, client: Option<&Remote>) -> Finding {
    let Some(bundle) = bundle else {
        return Finding::skipped(DATABASE, NO_CREDENTIALS);
    };
    let Some(index) = &bundle.index else {
        return Finding::skipped(DATABASE, "none is configured: the index is a local file");
    };
    let started = Instant::now();
    let client = client.map_or_else(|| Remote::connect(index), |client| Ok(client.clone()));
    let probed = match client {
        Ok(database) => database
            .probe(Remote::PROBE_TIMEOUT)
            .await
            .map(|probe| (database, probe.latency)),
        Err(error) => Err(error),
    };
    let finding = match probed {
        Ok((database, latency)) => Finding::ok(
            DATABASE,
            format!("{} answered in {} ms", database.url(), latency.as_millis().max(1)),
        ),
        Err(error) => Finding::failed(DATABASE, error.exit(), error.to_string(), error.advice()),
    };
    finding.since(started)
}

#[cfg(test)]
mod tests {
    use super::super::Outcome;
    use super::*;

    #[test]
    fn the_clock_is_judged_in_three_steps_to_both_sides() {
        let outcome = |seconds| clock(Some(SignedDuration::from_secs(seconds))).outcome;
        assert_eq!([outcome(0), outcome(-30), outcome(30)], [Outcome::Ok; 3]);
        assert_eq!([outcome(31), outcome(-900)], [Outcome::Warning; 2]);
        assert_eq!([outcome(901), outcome(-90_000)], [Outcome::Failed(Exit::Refused); 2]);
        assert_eq!(clock(None).outcome, Outcome::Skipped);
    }

    #[test]
    fn a_rejected_key_says_nothing_about_the_bucket() {
        let error = StorageError::Rejected {
            bucket: "b".into(),
            endpoint: "e".into(),
            code: "AccessDenied".into(),
        };
        let (key, bucket) = judge(Err(error), "b at e");
        assert_eq!(key.outcome, Outcome::Failed(Exit::Refused));
        assert_eq!(bucket.outcome, Outcome::Skipped);
    }

    #[test]
    fn a_missing_bucket_means_the_key_is_good() {
        let error = StorageError::NoBucket {
            bucket: "b".into(),
            endpoint: "e".into(),
        };
        let (key, bucket) = judge(Err(error), "b at e");
        assert_eq!(key.outcome, Outcome::Ok);
        assert_eq!(bucket.outcome, Outcome::Failed(Exit::Config));
    }
}
