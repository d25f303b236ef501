//! Every precondition of a tenant, asked at once and told one line each. Nothing is changed by asking.
//!
//! The same checks stand before a start and behind `tenant-init check`; only what is in use by a tenant that already
//! runs is judged differently ([`Scope`]). They run in parallel and each is bounded, so that the slowest dependency,
//! not their sum, is what a start waits for, and a machine on which everything hangs still gets its answers within
//! 10 seconds. Questions to the file system run on threads of their own: a path on a dead network file system blocks
//! its thread for good, and then that path is the finding.
//!
//! One finding decides the exit code ([`verdict`]): the one that no waiting will cure, and of these the one that
//! explains most.

mod machine;
mod network;
mod places;
mod ports;
mod programs;
mod render;

use std::time::{Duration, Instant};

use crate::config::Config;
use crate::credentials::{Bundle, CredentialsError};
use crate::exit::Exit;
use crate::index::Remote;
pub use render::{Style, render};

/// What the checks are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// `tenant-init check`: a tenant that runs here already may hold ports and mountpoint.
    Check,
    /// Before a start, which listens on its health port already: whatever else is taken is a failure.
    Start,
}

/// How one check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// As it should be.
    Ok,
    /// The tenant starts, but somebody should look.
    Warning,
    /// The tenant cannot start; with the exit code that this alone deserves.
    Failed(Exit),
    /// Not asked: not configured, not needed, or not answerable after another failure.
    Skipped,
}

/// One precondition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at, in one or two words.
    pub name: &'static str,
    /// How it is.
    pub outcome: Outcome,
    /// What was seen, for which object, and why. Never a secret.
    pub detail: String,
    /// What to do about it; always there for a failure or warning.
    pub advice: Option<String>,
    /// How long the check took, in milliseconds. Checks run in parallel: these do not add up.
    pub millis: u64,
}

impl Finding {
    /// All is well.
    #[must_use]
    pub fn ok(name: &'static str, detail: impl Into<String>) -> Finding {
        Finding::new(name, Outcome::Ok, detail.into(), None)
    }

    /// Not asked, and why.
    #[must_use]
    pub fn skipped(name: &'static str, detail: impl Into<String>) -> Finding {
        Finding::new(name, Outcome::Skipped, detail.into(), None)
    }

    /// Something to look at that does not stop the start.
    #[must_use]
    pub fn warning(name: &'static str, detail: impl Into<String>, advice: impl Into<String>) -> Finding {
        Finding::new(name, Outcome::Warning, detail.into(), Some(advice.into()))
    }

    /// Something that stops the start.
    #[must_use]
    pub fn failed(name: &'static str, exit: Exit, detail: impl Into<String>, advice: impl Into<String>) -> Finding {
        Finding::new(name, Outcome::Failed(exit), detail.into(), Some(advice.into()))
    }

    fn new(name: &'static str, outcome: Outcome, detail: String, advice: Option<String>) -> Finding {
        Finding {
            name,
            outcome,
            detail,
            advice,
            millis: 0,
        }
    }

    fn since(mut self, started: Instant) -> Finding {
        self.millis = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self
    }
}

/// A question to the file system that takes longer has no answer.
const LOCAL_TIMEOUT: Duration = Duration::from_secs(5);

/// Asks everything and returns one finding per precondition, always in the same order. Takes as long as the slowest
/// answer, at most 10 seconds. Needs a tokio runtime with time and I/O.
///
/// A resolver that hangs keeps its thread busy after this returned: end the runtime with `shutdown_background`.
///
/// Why there are no credentials is a finding too; what needs them is then skipped. `database` is the client to ask the
/// index database with, so that a start need not connect twice; without one a client is made from the bundle.
pub async fn run(
    config: &Config,
    bundle: Result<&Bundle, &CredentialsError>,
    database: Option<&Remote>,
    scope: Scope,
) -> Vec<Finding> {
    let local = async {
        let (machine, ports) = tokio::join!(machine::look(config), ports::check(config, scope));
        let ((programs, user), places) = tokio::join!(
            async { tokio::join!(programs::check(config, machine.driver), programs::user(config)) },
            places::check(config, ports.tenant_runs),
        );
        (machine, programs, user, places, ports)
    };
    let (bucket, database, (machine, programs, user, places, ports)) = tokio::join!(
        network::bucket(config, bundle),
        network::database(bundle.ok(), database),
        local
    );
    let mut findings = bucket;
    findings.push(database);
    findings.extend(programs);
    findings.push(user);
    findings.extend(machine.findings);
    findings.extend(places);
    findings.extend(ports.findings);
    findings
}

/// The failure that decides the exit code, with the words for the last line; `None` when the tenant can start.
///
/// What only a person can cure comes before what may cure itself: configuration (78), credentials (77), machine (71),
/// reachability (69). Among equals the first one wins.
#[must_use]
pub fn verdict(findings: &[Finding]) -> Option<(Exit, String)> {
    let rank = |exit: Exit| match exit {
        Exit::Config => 0,
        Exit::Refused => 1,
        Exit::Machine => 2,
        _ => 3,
    };
    let failed = |finding: &Finding| match finding.outcome {
        Outcome::Failed(exit) => Some(exit),
        _ => None,
    };
    let (exit, finding) = findings
        .iter()
        .filter_map(|finding| Some((failed(finding)?, finding)))
        .min_by_key(|(exit, _)| rank(*exit))?;
    let advice = finding
        .advice
        .as_ref()
        .map(|advice| format!("; {advice}"))
        .unwrap_or_default();
    Some((exit, format!("{}{advice}", finding.detail)))
}

/// Runs a question to the file system on a thread of its own, bounded. A thread that never comes back is left behind.
async fn local<F>(name: &'static str, what: String, question: F) -> Finding
where
    F: FnOnce() -> Finding + Send + 'static,
{
    within(LOCAL_TIMEOUT, name, what, question).await
}

async fn within<F>(limit: Duration, name: &'static str, what: String, question: F) -> Finding
where
    F: FnOnce() -> Finding + Send + 'static,
{
    let started = Instant::now();
    let answer = tokio::time::timeout(limit, tokio::task::spawn_blocking(question)).await;
    let finding = match answer {
        Ok(Ok(finding)) => finding,
        Ok(Err(_panicked)) => Finding::failed(
            name,
            Exit::Bug,
            format!("the check of {what} broke"),
            "report this as a bug of tenant-init",
        ),
        Err(_elapsed) => Finding::failed(
            name,
            Exit::Machine,
            format!("{what} did not answer within {} s", limit.as_secs_f64()),
            "a file system that hangs is in the way: look for it in /proc/self/mountinfo and unmount it (umount -l)",
        ),
    };
    finding.since(started)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(exit: Exit, detail: &str) -> Finding {
        Finding::failed("x", exit, detail, "do this")
    }

    #[test]
    fn nothing_failed_means_no_verdict() {
        let findings = [
            Finding::ok("a", "fine"),
            Finding::warning("b", "hm", "look"),
            Finding::skipped("c", "off"),
        ];
        assert_eq!(verdict(&findings), None);
    }

    #[test]
    fn what_waiting_will_not_cure_decides() {
        let unreachable = failed(Exit::Unavailable, "no answer");
        let refused = failed(Exit::Refused, "bad key");
        let config = failed(Exit::Config, "no bucket");
        let machine = failed(Exit::Machine, "no fuse");
        let pick = |findings: &[&Finding]| {
            verdict(&findings.iter().map(|finding| (*finding).clone()).collect::<Vec<_>>()).unwrap()
        };
        assert_eq!(pick(&[&unreachable, &machine]).0, Exit::Machine);
        assert_eq!(pick(&[&machine, &refused]).0, Exit::Refused);
        assert_eq!(pick(&[&refused, &config]).0, Exit::Config);
        assert_eq!(
            pick(&[&unreachable]),
            (Exit::Unavailable, "no answer; do this".to_owned())
        );
    }

    #[tokio::test]
    async fn a_path_that_hangs_becomes_the_finding() {
        let (release, wait) = std::sync::mpsc::channel::<()>();
        let hang = move || {
            let _ = wait.recv();
            Finding::ok("cache", "never told")
        };
        let finding = within(Duration::from_millis(20), "cache", "/dead/path".into(), hang).await;
        drop(release);
        assert_eq!(finding.outcome, Outcome::Failed(Exit::Machine));
        assert_eq!(finding.detail, "/dead/path did not answer within 0.02 s");
    }
}
