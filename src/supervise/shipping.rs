//! The outbox on its way to the database: shipped, compared, seeded, drained. One of these at a time holds the shipper.

use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::core::event::{Backlog, Event, Failure, IndexEvent, PhaseEnd, ShipFailure, Shipped};
use crate::exit::Exit;
use crate::index::compare::{self, CompareError, Report};
use crate::index::{IndexError, LeaseError, Pending, ShipError, Shipper, lease};
use crate::supervise::effects::Shared;
use crate::supervise::indexing::{CALL, Indexing};
use crate::supervise::leasing::{RELEASE, lease_failure};

/// One `Action::ShipIndex` works at most about this long before the core is told how far it is.
const TURN: Duration = Duration::from_secs(2);
/// An app that never stops committing can make this many comparisons void.
const COMPARISONS: u32 = 5;
/// Between two tries of the last drain.
const DRAIN_PAUSE: Duration = Duration::from_millis(500);
/// A refusal that lasts this long ends the last drain: no waiting makes a token right, and a hiccup is over by then.
const DRAIN_REFUSED: Duration = Duration::from_secs(5);

/// `Action::ShipIndex`
pub async fn ship(shared: Rc<Shared>) {
    let Some(tenant) = shared.tenant() else { return };
    let Some(indexing) = &tenant.index else { return };
    let mut shipper = indexing.shipper.lock().await;
    let (result, backlog) = match shipper.as_mut() {
        Some(shipper) => ship_for_a_while(indexing, shipper).await,
        None => (renew(indexing, None).await, Backlog::default()),
    };
    drop(shipper);
    shared.send(Event::Index(IndexEvent::Shipped(result, backlog)));
}

async fn ship_for_a_while(indexing: &Indexing, shipper: &mut Shipper) -> (Result<Shipped, ShipFailure>, Backlog) {
    let began = Instant::now();
    let mut latency = None;
    loop {
        let started = Instant::now();
        match shipper.round().await {
            Ok(round) => {
                if round.shipped > 0 {
                    latency = Some(started.elapsed());
                    indexing.answered.set(Instant::now());
                }
                let backlog = backlog(&round.left);
                if round.shipped > 0 && backlog.transactions > 0 && began.elapsed() < TURN {
                    continue;
                }
                let shipped = Shipped {
                    position: round.position,
                    latency,
                };
                if latency.is_some() {
                    return (Ok(shipped), backlog);
                }
                return (renew(indexing, Some(shipped)).await, backlog);
            }
            Err(error) => {
                let backlog = shipper.pending().map(|pending| backlog(&pending)).unwrap_or_default();
                return (Err(ship_failure(error)), backlog);
            }
        }
    }
}

/// Renews the lease if nothing else has done so lately.
async fn renew(indexing: &Indexing, seen: Option<Shipped>) -> Result<Shipped, ShipFailure> {
    let ttl = indexing.claimant.ttl;
    let (position, epoch) = match indexing.granted.borrow().as_ref() {
        Some(granted) => (granted.position, granted.epoch),
        None => return Err(ShipFailure::Local("there is no lease to renew".into())),
    };
    let mut shipped = seen.unwrap_or(Shipped {
        position,
        latency: None,
    });
    if indexing.answered.get().elapsed() < ttl / 6 {
        return Ok(shipped);
    }
    let started = Instant::now();
    match lease::renew(&indexing.remote, epoch, ttl, CALL).await {
        Ok(()) => {
            indexing.answered.set(Instant::now());
            shipped.latency = Some(started.elapsed());
            Ok(shipped)
        }
        Err(LeaseError::Lost { holder } | LeaseError::Held { holder, .. }) => Err(ShipFailure::Fenced { holder }),
        Err(error) => Err(ShipFailure::Down(lease_failure(&error))),
    }
}

fn backlog(pending: &Pending) -> Backlog {
    Backlog {
        transactions: pending.transactions,
        oldest: pending.oldest,
    }
}

fn ship_failure(error: ShipError) -> ShipFailure {
    let down = |error: &IndexError| ShipFailure::Down(Failure::new(error.exit(), error.to_string()));
    match error {
        ShipError::Index(error) => down(&error),
        ShipError::Fenced { holder } => ShipFailure::Fenced { holder },
        replay @ ShipError::Replay(_) => ShipFailure::Broken {
            cause: "replay",
            words: replay.to_string(),
        },
        diverged @ ShipError::Diverged(_) => ShipFailure::Broken {
            cause: "diverged",
            words: diverged.to_string(),
        },
        overflow @ ShipError::Overflow => ShipFailure::Broken {
            cause: "overflow",
            words: format!("{overflow} (index.outbox_max_size)"),
        },
        ShipError::Local(words) => ShipFailure::Local(words),
    }
}

/// `Action::ReseedIndex`
pub async fn reseed(shared: Rc<Shared>) {
    let Some(tenant) = shared.tenant() else { return };
    let Some(indexing) = &tenant.index else { return };
    let mut shipper = indexing.shipper.lock().await;
    let Some(shipper) = shipper.as_mut() else { return };
    let mut told = Instant::now();
    let progress = |rows: u64| {
        if told.elapsed() >= Duration::from_secs(2) {
            told = Instant::now();
            tracing::info!(
                event = "index_reseeding",
                rows,
                "filling the index database: {rows} row(s) so far"
            );
        }
    };
    let result = shipper.reseed(progress).await.map_err(ship_failure);
    if result.is_ok() {
        indexing.answered.set(Instant::now());
    }
    shared.send(Event::Index(IndexEvent::Reseeded(result)));
}

/// `Action::CompareIndex`
pub async fn compare(shared: Rc<Shared>) {
    let Some(tenant) = shared.tenant() else { return };
    let Some(indexing) = &tenant.index else { return };
    let Some(path) = &indexing.path else { return };
    tracing::info!(
        event = "index_comparing",
        "comparing the local index with the database, row by row"
    );
    // Nothing is shipped meanwhile, so a difference is one unless the app has committed since everything was.
    let mut shipper = indexing.shipper.lock().await;
    let Some(shipper) = shipper.as_mut() else { return };
    let mut result = Err(ShipFailure::Local("the index changes too fast to be compared".into()));
    for _ in 0..COMPARISONS {
        if let Err(error) = ship_all(shipper).await {
            result = Err(ship_failure(error));
            break;
        }
        let compared = compare::compare(&indexing.remote, path, CALL).await;
        let quiet = shipper.pending().is_ok_and(|pending| pending.rows == 0);
        if quiet || compared.as_ref().is_ok_and(|report| report.differences.is_empty()) {
            result = judged(compared);
            break;
        }
    }
    indexing.answered.set(Instant::now());
    shared.send(Event::Index(IndexEvent::Compared(result)));
}

async fn ship_all(shipper: &mut Shipper) -> Result<(), ShipError> {
    while shipper.round().await?.left.rows > 0 {}
    Ok(())
}

fn judged(compared: Result<Report, CompareError>) -> Result<String, ShipFailure> {
    match compared {
        Ok(report) if report.differences.is_empty() => Ok(format!(
            "local index and database are the same: {} table(s), {} row(s)",
            report.tables, report.rows
        )),
        Ok(report) => Err(ShipFailure::Broken {
            cause: "diverged",
            words: format!("local index and database differ: {}", report.differences.join("; ")),
        }),
        Err(CompareError::Index(error)) => Err(ShipFailure::Down(Failure::new(error.exit(), error.to_string()))),
        Err(error) => Err(ShipFailure::Local(format!("the index could not be compared: {error}"))),
    }
}

/// `Action::DrainIndex`
pub async fn drain(shared: Rc<Shared>, within: Duration) {
    let result = match shared.tenant() {
        Some(tenant) => match &tenant.index {
            Some(indexing) => drain_and_release(indexing, within).await,
            None => Ok(()),
        },
        None => Ok(()),
    };
    shared.send(Event::Phase(PhaseEnd::IndexDrained(result)));
}

async fn drain_and_release(indexing: &Indexing, within: Duration) -> Result<(), String> {
    indexing.stop_watching();
    let began = Instant::now();
    let drained = match tokio::time::timeout(within, ship_everything(indexing)).await {
        Ok(result) => result,
        Err(_) => Err(format!(
            "the index was not shipped within {:.0} s",
            within.as_secs_f64()
        )),
    };
    let seconds = began.elapsed().as_secs_f64();
    tracing::info!(
        event = "index_drained",
        seconds,
        stored = drained.is_ok(),
        "the index outbox was drained in {seconds:.2} s"
    );
    if let Some(epoch) = indexing.epoch() {
        match lease::release(&indexing.remote, epoch, RELEASE).await {
            Ok(()) => tracing::info!(event = "lease_released", epoch, "the tenant's lease is given back"),
            Err(error) => tracing::warn!(
                event = "lease_kept",
                "the lease could not be given back, the next machine waits for its end: {error}"
            ),
        }
    }
    drained
}

async fn ship_everything(indexing: &Indexing) -> Result<(), String> {
    let mut shipper = indexing.shipper.lock().await;
    let Some(shipper) = shipper.as_mut() else { return Ok(()) };
    let (mut announced, mut reseeded) = (false, false);
    let mut waiting = Waiting::default();
    loop {
        match shipper.round().await {
            Ok(round) if round.left.rows == 0 => {
                // Only so that what is counted on this disk later is true.
                drop(shipper.prune().await);
                return Ok(());
            }
            Ok(_) => waiting = Waiting::default(),
            Err(ShipError::Index(error)) => waiting.after(&error).await?,
            Err(ShipError::Fenced { holder }) => return Err(format!("another machine ({holder}) has taken the lease")),
            Err(error) if reseeded => return Err(not_in_database(&error)),
            Err(error) => {
                if !announced {
                    announced = true;
                    let words = "the database is filled anew from the local index";
                    tracing::warn!(event = "index_reseeding", "{error}; {words}");
                }
                match shipper.reseed(|_| {}).await {
                    Ok(_) => reseeded = true,
                    Err(ShipError::Index(error)) => waiting.after(&error).await?,
                    Err(error) => return Err(not_in_database(&error)),
                }
            }
        }
    }
}

fn not_in_database(error: &dyn std::error::Error) -> String {
    format!("the index is not in the database: {error}")
}

/// The last drain between two tries.
#[derive(Default)]
struct Waiting {
    /// Why the last try failed: said once.
    said: String,
    /// Since when every try was refused.
    refused: Option<Instant>,
}

impl Waiting {
    /// Waits for the next try.
    ///
    /// # Errors
    /// There is no use in another one.
    async fn after(&mut self, error: &IndexError) -> Result<(), String> {
        let words = error.to_string();
        if self.said != words {
            tracing::warn!(event = "index_drain_waits", "{words}");
            self.said = words;
        }
        if error.exit() == Exit::Unavailable {
            self.refused = None;
        } else if self.refused.get_or_insert_with(Instant::now).elapsed() >= DRAIN_REFUSED {
            return Err(not_in_database(error));
        }
        tokio::time::sleep(DRAIN_PAUSE).await;
        Ok(())
    }
}
