//! The mount as effects: each drives one call of `mount` and tells the core how it ended.

use std::os::unix::process::ExitStatusExt;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::core::event::{Event, Failure, MountEvent, MountHealth, PhaseEnd, Queue, Room};
use crate::core::pressure::LEAST_RESERVE;
use crate::exit::Exit;
use crate::mount::{Claim, DrainProgress, Drained, Plan, Prober, Session, Verdict};
use crate::process::oom::Kills;
use crate::supervise::effects::Shared;
use crate::supervise::prepare::Tenant;
use crate::supervise::{application, auditing, prepare, relisting, suspecting};

/// rclone holds writes that are not stored: the app goes before it when memory runs out, and we after it.
const OOM_SCORE_ADJ: i16 = 300;
/// The end waits this long for a launch that is under way.
const RELEASE_LIMIT: Duration = Duration::from_secs(5);
/// How often it looks whether that has started an rclone meanwhile.
const RELEASE_LOOK: Duration = Duration::from_millis(20);
/// A call that waits this long is a reason to look at the mount.
const SLOW_CALL: Duration = Duration::from_secs(1);
/// A call that takes longer (it waits for the bucket) is not finished before rclone is replaced, but repeated after it.
const CALLS_LIMIT: Duration = Duration::from_secs(2);
/// rclone ends within milliseconds of TERM.
const TERMINATE_LIMIT: Duration = Duration::from_secs(3);

/// `Action::LaunchMount`
pub async fn launch(shared: Rc<Shared>, within: Duration) {
    let deadline = Instant::now() + within;
    if let Err(failure) = try_launch(&shared, deadline).await {
        shared.send(Event::Mount(MountEvent::Failed(failure)));
    }
}

async fn try_launch(shared: &Rc<Shared>, deadline: Instant) -> Result<(), Failure> {
    let Some(tenant) = shared.tenant() else { return Ok(()) };
    let failure = |error: crate::mount::MountError| Failure::new(error.exit(), error.to_string());
    let mount = &shared.config.mount;
    let known = shared.claim.borrow().clone();
    let claim = match known {
        Some(claim) => claim,
        None => {
            let taken = Claim::take(mount, Arc::new(Prober::this_program()))
                .await
                .map_err(failure)?;
            // Somebody else may have used the cache directory until now.
            if let Err(refused) = prepare::may_use_cache(&shared.config) {
                if let Err(error) = taken.release().await {
                    tracing::warn!(event = "mount_left", "{error}");
                }
                return Err(refused);
            }
            let taken = Rc::new(taken);
            *shared.claim.borrow_mut() = Some(Rc::clone(&taken));
            taken
        }
    };
    // A new rclone would list what the old one forgot to delete, and the app would find it again.
    auditing::before_a_listing(shared).await;
    if shared.ending.get() {
        return Ok(());
    }
    refuse_doubted(shared)?;
    shared.drained.set(false);
    let session = Session::launch(&claim, plan(shared, &tenant)).await.map_err(failure)?;
    *shared.session.borrow_mut() = Some(session.clone());
    count_anew(shared);
    shared.send(Event::Mount(MountEvent::Launched { pid: session.pid() }));
    let took = session
        .ready(relisting::is_small(shared), deadline.into())
        .await
        .map_err(|error| Failure::new(error.exit(), error.to_string()))?;
    // The bucket may have come back only now. Nobody has looked at the mount yet.
    auditing::in_time(auditing::deletions(shared)).await;
    tracing::info!(
        event = "mount_ready",
        milliseconds = took.as_millis() as u64,
        "{} is mounted",
        mount.path.display()
    );
    shared.served.set(true);
    shared.send(Event::Mount(MountEvent::Ready));
    tokio::task::spawn_local(watch(Rc::clone(shared), session));
    Ok(())
}

/// An rclone that lists the bucket throws away what it has cached of a file that has another object there. So nobody may list before
/// it is known whether that object is one that must not be there.
///
/// # Errors
/// The bucket did not answer.
fn refuse_doubted(shared: &Shared) -> Result<(), Failure> {
    let names = auditing::doubted(shared);
    if names.is_empty() {
        return Ok(());
    }
    let words = format!(
        "the bucket did not answer in time whether a rename that failed has changed {}",
        names.join(", ")
    );
    Err(Failure::new(Exit::Unavailable, words))
}

fn plan(shared: &Shared, tenant: &Tenant) -> Plan {
    Plan {
        mount: shared.config.mount.clone(),
        storage: tenant.bundle.borrow().storage.clone(),
        driver: tenant.driver,
        uid: tenant.owner.0,
        gid: tenant.owner.1,
        ledger: tenant.ledger.clone(),
        oom_score_adj: Some(OOM_SCORE_ADJ),
        observer: Arc::clone(&shared.metrics.operations) as Arc<_>,
    }
}

/// A new rclone counts from nothing.
fn count_anew(shared: &Shared) {
    shared.upload_failures.set(0);
    shared.slow_downs.set(0);
}

/// See `Action::Reconnect`.
#[derive(Clone, Copy)]
pub struct How {
    pub fresh: bool,
    pub gently: bool,
}

/// `Action::Reconnect`
pub async fn reconnect(shared: Rc<Shared>, how: How, within: Duration) {
    let deadline = Instant::now() + within;
    match try_reconnect(&shared, how, deadline).await {
        Ok(Some(session)) => {
            shared.send(Event::Mount(MountEvent::Reconnected));
            watch(shared, session).await;
        }
        // A stop has taken the mounter away meanwhile.
        Ok(None) => {}
        Err(failure) => shared.send(Event::Mount(MountEvent::ReconnectFailed(failure))),
    }
}

async fn try_reconnect(shared: &Rc<Shared>, how: How, deadline: Instant) -> Result<Option<Session>, Failure> {
    let claim = shared.claim.borrow().clone();
    let (Some(tenant), Some(claim), Some(lost)) = (shared.tenant(), claim, shared.session()) else {
        return Ok(None);
    };
    let began = Instant::now();
    if how.gently {
        lost.finish_calls(CALLS_LIMIT).await;
    }
    let session = if how.fresh || lost.exit_status().is_some() {
        let relaunched = lost.relaunch(&claim, plan(shared, &tenant)).await;
        let session = relaunched.map_err(|error| Failure::new(error.exit(), error.to_string()))?;
        // Put in place only where it belongs: the drain and the end of a stop look for it there.
        let expected = shared.session().is_some_and(|present| present.pid() == lost.pid());
        if !expected {
            session.terminate(Duration::ZERO).await;
            return Ok(None);
        }
        *shared.session.borrow_mut() = Some(session.clone());
        count_anew(shared);
        shared.send(Event::Mount(MountEvent::Launched { pid: session.pid() }));
        session
    } else {
        lost
    };
    // A new rclone lists what is in the bucket: what was deleted must be gone from there before.
    let ((), answers) = tokio::join!(auditing::before_a_listing(shared), session.reanswers(deadline.into()));
    let not_ready = |error: crate::mount::NotReady| Failure::new(error.exit(), error.to_string());
    answers.map_err(not_ready)?;
    let answered = began.elapsed();
    auditing::before_a_listing(shared).await;
    refuse_doubted(shared)?;
    let settled = began.elapsed();
    session
        .rejoin(relisting::is_tiny(shared), deadline.into())
        .await
        .map_err(not_ready)?;
    tracing::info!(
        event = "mount_rejoined",
        answered_ms = answered.as_millis() as u64,
        settled_ms = settled.as_millis() as u64,
        joined_ms = session.joined_after(began).as_millis() as u64,
        milliseconds = began.elapsed().as_millis() as u64,
        "a new rclone serves {}",
        shared.config.mount.path.display()
    );
    Ok(Some(session))
}

/// Tells when rclone ends, or has to. After an unmount or TERM of ours the core expects it and does not mind.
async fn watch(shared: Rc<Shared>, session: Session) {
    let kills = Kills::find();
    let before = kills.as_ref().and_then(Kills::count);
    let mut crooked = false;
    let status = loop {
        tokio::select! {
            status = session.exited() => break status,
            () = session.call_waits(SLOW_CALL) => shared.send(Event::Mount(MountEvent::Slow)),
            words = session.crooked(), if !crooked => {
                crooked = true;
                shared.send(Event::Mount(MountEvent::Crooked(words)));
            }
        }
    };
    shared.mounter_ended.set(Some(suspecting::Ended::now()));
    let mut words = status.to_string();
    if status.signal() == Some(9) && kills.as_ref().and_then(Kills::count) > before {
        words = format!("{words}; the kernel killed it for memory: give the machine more");
    }
    if let Some(last) = session.last_words().last() {
        words = format!("{words}; its last words: {last}");
    }
    let pid = session.pid();
    shared.send(Event::Mount(MountEvent::Exited { pid, words }));
}

/// `Action::ProbeMount`
pub async fn probe(shared: Rc<Shared>) {
    let Some(session) = shared.session() else { return };
    let (failures_before, slow_downs_before) = (session.upload_failures(), session.slow_downs());
    let mut queue = pin!(session.queue());
    let mut health = pin!(session.health(shared.config.health.mount_timeout));
    let mut queued = None;
    let health = loop {
        tokio::select! {
            found = &mut health => break found,
            answer = &mut queue, if queued.is_none() => queued = Some(answer),
        }
    };
    let queue = match queued {
        Some(answer) => answer.ok(),
        // It would not answer either.
        None if health.hung => None,
        None => queue.await.ok(),
    };
    if let Some(took) = health.statvfs {
        shared.metrics.operations.operation("probe_statvfs", took, None);
    }
    let new_failures = session
        .upload_failures()
        .saturating_sub(shared.upload_failures.replace(failures_before));
    let queue = queue.map(|queue| {
        let uploads = queue.uploads(0);
        Queue {
            files: uploads.queued,
            in_progress: uploads.in_progress,
            bytes: uploads.bytes,
            oldest: Duration::from_secs_f64(uploads.oldest_seconds),
            failing: uploads.failing,
            new_failures,
            new_slow_downs: session
                .slow_downs()
                .saturating_sub(shared.slow_downs.replace(slow_downs_before)),
            why: session.upload_failure(),
        }
    });
    let room = room(&shared, queue.as_ref().map_or(0, |queue| queue.bytes)).await;
    if health.verdict == Verdict::MounterDead {
        let (pid, words) = (session.pid(), health.detail);
        return shared.send(Event::Mount(match session.exit_status() {
            Some(_) => MountEvent::Exited { pid, words },
            None => MountEvent::Lost(words),
        }));
    }
    // A mount that is slow because the bucket is silent is the bucket's failure, and its own probe tells it.
    let hung = health.hung;
    let stuck = matches!(health.verdict, Verdict::Stuck { .. } | Verdict::MounterHung { .. }).then_some(health.detail);
    shared.send(Event::Mount(MountEvent::Health(MountHealth {
        stuck,
        hung,
        queue,
        room,
    })));
    application::save_projects(&shared).await;
    auditing::look(&shared).await;
}

/// The cache's disk. `unsent` bytes of the cache cannot be evicted.
async fn room(shared: &Shared, unsent: u64) -> Option<Room> {
    let mount = &shared.config.mount;
    let (cache_dir, plenty) = (
        mount.cache_dir.clone(),
        mount.cache_min_free_bytes.max(LEAST_RESERVE) * 2,
    );
    let asked = tokio::task::spawn_blocking(move || crate::mount::room(&cache_dir, unsent, plenty)).await;
    match asked.unwrap_or_else(|error| Err(std::io::Error::other(error))) {
        Ok(room) => Some(room),
        Err(error) => {
            tracing::debug!(
                event = "cache_disk",
                "the cache's disk cannot be asked for its room: {error}"
            );
            None
        }
    }
}

/// `Action::PauseMounter` and `Action::ResumeMounter`
pub fn signal(shared: &Shared, signal: nix::sys::signal::Signal) {
    if let Some(session) = shared.session() {
        session.signal(signal);
    }
}

/// `Action::SetReadOnly`
pub async fn set_read_only(shared: Rc<Shared>, read_only: bool) {
    let Some(session) = shared.session() else { return };
    if shared.fenced.get() {
        return;
    }
    let result = session.set_read_only(read_only).await;
    shared.send(Event::Mount(MountEvent::Mode { read_only, result }));
}

/// `Action::ExpireQueue`
pub async fn expire_queue(shared: Rc<Shared>) {
    let Some(session) = shared.session() else { return };
    if let Err(error) = session.expire_queue().await {
        tracing::warn!(
            event = "expire_queue",
            "the waiting uploads keep their retry delay: {error}"
        );
    }
}

/// `Action::Sync`
pub async fn sync(shared: Rc<Shared>, within: Duration) {
    let result = match shared.session() {
        Some(session) => {
            let (result, ()) = tokio::join!(session.sync(within), application::save_projects(&shared));
            result
                .map(drop)
                .map_err(|error| format!("syncing the mount failed: {error}"))
        }
        None => Ok(()),
    };
    shared.send(Event::Phase(PhaseEnd::Synced(result)));
}

/// `Action::Unmount`
pub async fn unmount(shared: Rc<Shared>, within: Duration) {
    let result = match shared.session() {
        Some(session) => session
            .unmount(within)
            .await
            .map(drop)
            .map_err(|error| error.to_string()),
        None => Ok(()),
    };
    shared.send(Event::Phase(PhaseEnd::Unmounted(result)));
}

/// `Action::Drain`
pub async fn drain(shared: Rc<Shared>, within: Duration) {
    let result = match shared.session() {
        Some(session) => {
            let started = Instant::now();
            let deadline = started + within;
            let result = session
                .drain(
                    |at| {
                        progress(&at);
                        shared.draining.send_replace(Some(at));
                    },
                    deadline.into(),
                )
                .await
                .map_err(|error| error.to_string());
            auditing::all(&shared).await;
            // Notes that were cut short may say "sent" of what was never sent.
            shared.drained.set(result == Ok(Drained::Told));
            let seconds = started.elapsed().as_secs_f64();
            tracing::info!(
                event = "drained",
                seconds,
                stored = result.is_ok(),
                "the upload queue was drained in {seconds:.2} s"
            );
            result.map(drop)
        }
        None => Ok(()),
    };
    shared.send(Event::Phase(PhaseEnd::Drained(result)));
}

fn progress(at: &DrainProgress) {
    tracing::info!(
        event = "draining",
        files = at.files,
        bytes = at.bytes,
        uploading = at.uploading,
        failing = at.failing,
        "{} file(s), {} byte(s) still to upload: {}",
        at.files,
        at.bytes,
        at.names.join(", ")
    );
}

/// `Action::TerminateMounter`
pub async fn terminate(shared: Rc<Shared>) {
    let session = shared.session.borrow_mut().take();
    if let Some(session) = session {
        session.terminate(TERMINATE_LIMIT).await;
    }
    shared.send(Event::Phase(PhaseEnd::MounterGone));
}

/// Leaves nothing behind: the rest of a stop that was cut short, the barrier, the lock on the cache.
pub async fn release(shared: &Shared) {
    shared.ending.set(true);
    let mut launch = shared.launch.take();
    let deadline = Instant::now() + RELEASE_LIMIT;
    loop {
        let session = shared.session.borrow_mut().take();
        if let Some(session) = session {
            session.terminate(Duration::ZERO).await;
        }
        // A launch that is under way has the claim, and may be about to start an rclone.
        let Some(task) = launch.as_mut().filter(|task| !task.is_finished()) else {
            break;
        };
        if tokio::time::timeout(RELEASE_LOOK, task).await.is_ok() {
            launch = None;
        } else if Instant::now() > deadline {
            break;
        }
    }
    let late = shared.session.borrow_mut().take();
    if let Some(session) = late {
        session.terminate(Duration::ZERO).await;
    }
    let claim = shared.claim.borrow_mut().take();
    let bucket = shared.bucket.borrow().clone();
    if let (Some(claim), Some(bucket), true) = (&claim, bucket, shared.config.mount.is_read_only())
        && let Err(error) = crate::mount::discard(claim.cache_dir(), Some(&bucket)).await
    {
        tracing::warn!(event = "cache_discarded", "{error}");
    }
    if let Some(claim) = claim.and_then(Rc::into_inner)
        && let Err(error) = claim.release().await
    {
        tracing::warn!(event = "mount_left", "{error}");
    }
}
