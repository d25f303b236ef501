//! A RENAME, on its way to rclone and back.
//!
//! What is stored rclone (1.75.2) renames by a copy in the bucket, and it does not keep that apart from its uploads of the two
//! files. An upload of the source that ends meanwhile is taken for one of the new name, and that of the target can arrive after
//! the copy; when the copy is not as long as rclone thinks the source is, it takes the object away, and with it what the target
//! had before. So both uploads are waited for ([`super::Rclone`]), and nothing is written to the two files until the rename has
//! ended ([`super::order`]).
//!
//! A bucket that does not answer for a moment makes a rename fail that would succeed a moment later; it is tried again for a
//! while.

use std::io;
use std::pin::pin;
use std::time::Duration;

use nfs3_types::nfs3::{self, NFS_PROGRAM, RENAME3args, nfsstat3};
use tokio::time::{Instant, sleep};

use super::exchange::{Call, Exchange};
use super::nodes::HANDLE;
use super::path::Path;
use super::procedure::Procedure;
use super::reach::{XID, entry, message};
use super::reply::Outcome;

/// Before a rename that failed is tried again, or answered: time in which it can be learned from rclone's log that this rclone has to
/// be replaced (`Session::crooked`). Until then it takes one file for another.
const SECOND_THOUGHT: Duration = Duration::from_millis(50);
/// Between the first attempts; it doubles.
const PAUSE: Duration = Duration::from_millis(250);
/// No attempt begins later than this after the first has failed, which may take some seconds in itself. Programs that look for names in
/// the two directories wait as well.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is noted that a call waits for the bucket: less than the shortest time that counts as hanging.
const EXCUSE: Duration = Duration::from_millis(500);

impl Path {
    /// Has a RENAME executed.
    pub(super) async fn rename(&mut self, exchange: &Exchange, call: &mut Call) -> io::Result<Outcome> {
        // Of a directory there is nothing to put right, and a rename to its own name would copy each file onto itself and delete it.
        let Some([from, to]) = exchange.nodes().paths(&call.plan, &call.record) else {
            return self.execute(exchange, call).await;
        };
        let mut failed = None;
        let mut pause = PAUSE;
        loop {
            if let Err(why) = excused(exchange, call, exchange.rclone.settled(&from, &to)).await {
                tracing::warn!(
                    event = "rename_refused",
                    from,
                    to,
                    "not renamed: {why}; both files are as they were"
                );
                return Ok(self.fail(call, nfsstat3::NFS3ERR_IO));
            }
            if let Some(status) = exchange.refusal(call) {
                return Ok(self.fail(call, status));
            }
            let outcome = self.execute(exchange, call).await?;
            if outcome == Outcome::Ok {
                return Ok(outcome);
            }
            self.straighten(exchange, call).await?;
            if outcome != Outcome::Failed(nfsstat3::NFS3ERR_IO) {
                return Ok(outcome);
            }
            sleep(SECOND_THOUGHT).await;
            if exchange.is_held() {
                // What became of it is found out with the next one.
                return Err(io::Error::other("rclone is being replaced"));
            }
            let failed = *failed.get_or_insert_with(Instant::now);
            if failed.elapsed() + pause >= PATIENCE || !exchange.rclone.may_be_renamed_later(&to) {
                return Ok(outcome);
            }
            excused(exchange, call, sleep(pause)).await;
            pause *= 2;
        }
    }

    /// Puts right what a rename that failed leaves in rclone: the file is found under its old name and takes itself for the new
    /// one, so what is written to it would be stored there. A rename to the name it has already changes that back, and nothing
    /// else. The reply stays as it is.
    async fn straighten(&mut self, exchange: &Exchange, call: &Call) -> io::Result<()> {
        let Some((directory, name)) = call.plan.objects[0].as_ref().and_then(|object| {
            let directory = call.record.get(object.handle..object.handle + HANDLE)?;
            Some((directory.try_into().ok()?, call.record.get(object.name.clone()?)?))
        }) else {
            return Ok(());
        };
        let arguments = RENAME3args {
            from: entry(&directory, name),
            to: entry(&directory, name),
        };
        let request = message(
            nfs3::PROGRAM,
            nfs3::VERSION,
            NFS_PROGRAM::NFSPROC3_RENAME as u32,
            &arguments,
        );
        let failure = std::mem::take(&mut self.reply);
        let rename = Procedure::of(NFS_PROGRAM::NFSPROC3_RENAME);
        let straight = self.round_trip(exchange, &request, XID, rename).await?;
        self.reply = failure;
        // What is not there cannot be wrong.
        if !matches!(straight, Outcome::Ok | Outcome::Failed(nfsstat3::NFS3ERR_NOENT)) {
            let name = String::from_utf8_lossy(name);
            tracing::error!(%name, "after a rename that failed rclone may store what is written to this file under its new name");
        }
        Ok(())
    }
}

/// Waits, and it does not count as rclone's fault.
async fn excused<T>(exchange: &Exchange, call: &Call, work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    loop {
        tokio::select! {
            done = &mut work => {
                exchange.excuse(call);
                return done;
            }
            () = sleep(EXCUSE) => exchange.excuse(call),
        }
    }
}
