//! The verdict: what is not stored, said on stdout, in the exit code, and in a marker beside the cache that the next
//! start reads.

use std::fs;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use crate::app::command;
use crate::config::Config;
use crate::core::event::Failure;
use crate::core::verdict::{Cause, Verdict, decide};
use crate::exit::Exit;
use crate::index;
use crate::mount::{self, Ledger, pending};
use crate::ops::front;
use crate::supervise::effects::Shared;
use crate::supervise::{auditing, mounting, warm};

fn marker(config: &Config) -> PathBuf {
    config.mount.cache_dir.join("last-verdict.json")
}

/// Collects what is not stored. Whatever still runs is left to the guardian; the mount point is cleared if it can be.
pub async fn verdict(shared: &Shared, cause: &Cause, stop_seconds: f64) -> Verdict {
    warm::call_off(shared).await;
    let claimed = shared.claim.borrow().is_some();
    // Only after a stop that was cut short something is left; rclone must be gone before its cache is read.
    mounting::release(shared).await;
    let config = &shared.config;
    let names = not_stored(shared);
    auditing::keep(shared);
    let index_pending = match shared.tenant() {
        Some(tenant) => match &tenant.index {
            Some(index) => index.pending().await,
            None => 0,
        },
        // What a life before has left is still there.
        None => left_of_the_index(config),
    };
    let verdict = decide(cause, shared.served.get(), names, index_pending, stop_seconds);
    write_marker(config, &verdict, claimed);
    verdict
}

/// Names of files that are not in the bucket, and then of those that still are and must not be.
fn not_stored(shared: &Shared) -> Vec<String> {
    let config = &shared.config;
    let Some(bucket) = shared.bucket.borrow().clone() else {
        return left(config);
    };
    // After an rclone that was killed its notes may say "sent" of what was never sent.
    let doubt = !shared.drained.get();
    let mut names = unsent(config, &bucket, doubt);
    if doubt {
        names.extend(pending::doubtful(&config.mount.cache_dir, &bucket).unwrap_or_default());
    }
    // Before its preconditions hold there is what an earlier life has left.
    let ledger = shared.tenant().map_or_else(
        || Ledger::load(&config.mount.cache_dir, &bucket),
        |tenant| tenant.ledger.clone(),
    );
    names.extend(ledger.wrong());
    names.extend(ledger.doubted_in(&config.mount.cache_dir));
    if doubt {
        names.extend(ledger.queued());
    }
    names.retain(|name| is_data(name));
    names.sort();
    names.dedup();
    names.extend(deletions(&ledger));
    names
}

/// What is still to be deleted in the bucket, in words.
fn deletions(ledger: &Ledger) -> impl Iterator<Item = String> + use<> {
    let names = ledger.deletions().into_iter().map(|(name, _)| name);
    names
        .filter(|name| is_data(name))
        .map(|name| format!("{name} (to be deleted)"))
}

/// `claimed`: the cache directory was this life's. Else somebody who lives may have it, and the next start must not take this for
/// that one's verdict.
fn write_marker(config: &Config, verdict: &Verdict, claimed: bool) {
    if !claimed && mount::is_in_use(&config.mount.cache_dir) {
        return;
    }
    let file = marker(config);
    let fresh = file.with_extension("json.new");
    let written = serde_json::to_vec(verdict)
        .map_err(std::io::Error::from)
        .and_then(|bytes| fs::write(&fresh, bytes))
        .and_then(|()| fs::rename(&fresh, &file));
    // Without a cache directory there is nothing the next start could have to finish.
    if let Err(error) = written
        && config.mount.cache_dir.is_dir()
    {
        tracing::warn!(event = "marker", "cannot write {}: {error}", file.display());
    }
}

/// The end of a life for which there is nothing more to do: names what is left on this disk, and for the next start writes the
/// marker.
pub fn at_once(config: &Config, cause: &Cause, seconds: f64) -> Exit {
    let verdict = decide(cause, true, left(config), left_of_the_index(config), seconds);
    write_marker(config, &verdict, false);
    announce(config, &verdict)
}

/// [`unshipped`]; one too many rather than none when that cannot be read.
fn left_of_the_index(config: &Config) -> u64 {
    unshipped(config).unwrap_or_else(|error| {
        tracing::error!(
            event = "index_unreadable",
            "cannot tell what of the index is not stored: {error}"
        );
        1
    })
}

/// Transactions of basic-memory's index that a life before this one left in the outbox.
fn unshipped(config: &Config) -> Result<u64, String> {
    if !command::is_basic_memory(config) {
        return Ok(0);
    }
    let pending = index::pending(&command::index_file(config), 0).map_err(|error| error.to_string())?;
    Ok(pending.transactions)
}

/// Is there anything on this disk that could be stored?
pub fn anything_left(config: &Config) -> bool {
    !left(config).is_empty() || unshipped(config).map_or(true, |transactions| transactions > 0)
}

/// Names of everything on this disk that is not stored, when it is not known in which bucket it belongs.
fn left(config: &Config) -> Vec<String> {
    let cache_dir = &config.mount.cache_dir;
    let mut names = match pending::left(cache_dir) {
        Ok(names) => names,
        Err(error) => vec![unknown(config, &error)],
    };
    for ledger in Ledger::load_all(cache_dir) {
        names.extend(ledger.doubted_in(cache_dir));
        names.extend(deletions(&ledger));
    }
    names
}

/// The self-test's scratch files are nobody's data.
fn is_data(name: &str) -> bool {
    !name.starts_with(".tenant-init/")
}

fn unknown(config: &Config, error: &std::io::Error) -> String {
    format!(
        "(unknown: the cache {} cannot be read: {error})",
        config.mount.cache_dir.display()
    )
}

/// Names of the files in the cache that are not in `bucket`; in `doubt` also those of which rclone has left no description.
fn unsent(config: &Config, bucket: &str, doubt: bool) -> Vec<String> {
    let look = if doubt {
        pending::unsent
    } else {
        pending::unsent_after_a_drain
    };
    match look(&config.mount.cache_dir, bucket) {
        Ok(files) => files.into_iter().map(|file| file.name).collect(),
        Err(error) => {
            tracing::error!(event = "cache_unreadable", "cannot tell what is not stored: {error}");
            vec![unknown(config, &error)]
        }
    }
}

/// What an earlier life on this disk left.
pub struct Earlier {
    /// Its files that are not in the bucket yet.
    pub unsent: usize,
    /// It ended without a verdict: what its rclone was about is not known. (Or there was none.)
    pub cut_short: bool,
}

/// Says what an earlier life on this disk left of `bucket`.
pub fn found(config: &Config, bucket: &str) -> Earlier {
    let unsent = unsent(config, bucket, true);
    let earlier = fs::read(marker(config))
        .ok()
        .and_then(|bytes| serde_json::from_slice::<Verdict>(&bytes).ok());
    let cut_short = earlier.is_none();
    match earlier {
        Some(verdict) if !verdict.stored => tracing::warn!(
            event = "earlier_verdict",
            exit_code = verdict.exit_code,
            "the last stop left {} file(s) and {} index transaction(s) not stored: {}",
            verdict.uploads_pending.len(),
            verdict.index_pending,
            verdict.uploads_pending.join(", ")
        ),
        None if !unsent.is_empty() => tracing::warn!(
            event = "earlier_verdict",
            "an earlier life on this disk ended without a verdict and left {} file(s) not stored",
            unsent.len()
        ),
        _ => {}
    }
    match pending::other_buckets(&config.mount.cache_dir, bucket) {
        Ok(others) => {
            for (other, count) in others {
                tracing::warn!(
                    event = "other_bucket",
                    bucket = other,
                    "this cache directory has {count} file(s) of the bucket {other} that are not stored: a tenant of that bucket uploads \
                     them when it is started on this cache directory"
                );
            }
        }
        Err(error) => tracing::debug!(event = "other_bucket", "cannot be looked for: {error}"),
    }
    // The verdict is used up: a crash of this life must not be taken for the earlier stop.
    let _ = fs::remove_file(marker(config));
    Earlier {
        unsent: unsent.len(),
        cut_short,
    }
}

/// The last line on stderr for people, the last line on stdout for programs, and the exit code. For a local mount the front end
/// says it; and on a terminal it would be said twice.
pub fn announce(config: &Config, verdict: &Verdict) -> Exit {
    if config.mount.local.is_some() {
        front::end(config, verdict);
        if std::io::stdout().is_terminal() {
            return Exit::from_code(verdict.exit_code);
        }
    } else {
        log(verdict);
    }
    let line = serde_json::to_string(verdict).unwrap_or_else(|_| r#"{"event":"verdict","stored":false}"#.into());
    let mut out = std::io::stdout().lock();
    // A closed stdout must not change the exit code, which says the same.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    Exit::from_code(verdict.exit_code)
}

fn log(verdict: &Verdict) {
    let left = match (verdict.uploads_pending.len(), verdict.index_pending) {
        (0, 0) => "everything is stored".to_owned(),
        (files, 0) => format!("{files} file(s) are not stored: {}", verdict.uploads_pending.join(", ")),
        (0, index) => format!("{index} index transaction(s) are not stored"),
        (files, index) => format!(
            "{files} file(s) and {index} index transaction(s) are not stored: {}",
            verdict.uploads_pending.join(", ")
        ),
    };
    let (code, reason) = (verdict.exit_code, &verdict.reason);
    if verdict.stored && code == Exit::Stored.code() {
        tracing::info!(event = "verdict", "ended: {reason}; {left}");
    } else {
        tracing::error!(event = "verdict", "ended with exit code {code}: {reason}; {left}");
    }
}

/// A failure before the loop could start: names what a life before has left on this disk. The marker is not ours to write, that
/// life may still be there.
pub fn before_the_start(config: &Config, exit: Exit, words: &str) -> Exit {
    let cause = Cause::Failure(Failure::new(exit, words));
    announce(
        config,
        &decide(&cause, false, left(config), left_of_the_index(config), 0.0),
    )
}
