//! `tenant-init bench`: the specification's measurements as a tool.
//!
//! Every measure is taken on the mount and on local disk in turns, sample by sample, in one run: what else the machine does
//! meets both, and their ratio says more than either time. Files are made in a folder of our own on each side, notes in a
//! folder of their own in basic-memory's default project; nothing of the tenant's is read, changed or counted. However a run
//! ends, it removes what it made ([`clean`]).
//!
//! Not everything can be measured everywhere. What "changed elsewhere" and "stored" mean needs the bucket's key, note
//! operations need basic-memory: what is missing is named with its reason in the result instead of being left out.

mod burst;
mod clean;
mod compare;
mod event;
mod far;
mod files;
mod halt;
mod mcp;
mod measure;
mod notes;
mod place;
mod progress;
mod report;
mod scan;
mod sides;
mod stats;
mod steps;
mod stop;
mod table;
mod twin;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use measure::Group;

use crate::config::Config;
use crate::exit::Exit;
use crate::ops::log::colours;
use crate::ops::status;
use far::{Far, Witness, ask};
use halt::Halt;
use measure::{Measure, Plan};
use place::Place;
use progress::Progress;
use report::Report;
use sides::Runner;
use steps::Run;
use stop::Stop;

/// What was asked for on the command line.
#[derive(Debug, Clone)]
pub struct Options {
    /// Print JSON instead of the table.
    pub json: bool,
    /// An earlier result to compare with.
    pub compare: Option<PathBuf>,
    /// Samples of each file operation; the other counts follow from it.
    pub samples: usize,
    /// Only these parts; none: all.
    pub only: Vec<Group>,
    /// Measure this mount instead of the tenant's.
    pub mount: Option<PathBuf>,
    /// Compare with this place instead of the app's local disk.
    pub local: Option<PathBuf>,
}

/// Measures and prints to stdout; progress and failures go to stderr. Must run inside a tokio runtime, which must go on
/// turning: what touches the mount may block and runs on a thread of its own, and waits for the runtime from there.
///
/// The exit code is 0 when the run came to its end, whatever was skipped and whatever a comparison says; 64 for a command
/// line that cannot be meant, 69 when no tenant is ready, 71 when this machine or its disk cannot, 128 + signal after one.
pub async fn run(config: Config, options: Options) -> Exit {
    let name = place::fresh_name();
    let stop = match stop::listen(name.clone()) {
        Ok(stop) => stop,
        Err(error) => return fail(&Halt::file("cannot listen to signals", error)),
    };
    let work = tokio::task::spawn_blocking(move || whole(&config, &options, name, stop));
    // A panic has said what it has to say.
    work.await.unwrap_or(Exit::Bug)
}

fn fail(halt: &Halt) -> Exit {
    let _ = writeln!(io::stderr(), "tenant-init bench: {halt}");
    halt.exit()
}

fn whole(config: &Config, options: &Options, name: String, stop: Stop) -> Exit {
    let outcome = match measured(config, options, name, stop) {
        Ok(outcome) => outcome,
        Err(halt) => return fail(&halt),
    };
    for words in &outcome.left {
        let _ = writeln!(io::stderr(), "tenant-init bench: could not be removed: {words}");
    }
    let report = match outcome.result {
        Ok(report) => report,
        Err(halt) => return fail(&halt),
    };
    let out: &mut dyn Write = &mut io::stdout().lock();
    let printed = if options.json {
        serde_json::to_writer_pretty(&mut *out, &report)
            .map_err(io::Error::from)
            .and_then(|()| writeln!(out))
    } else {
        table::print(out, &report, colours(&io::stdout()))
    };
    // A closed pipe (`bench | head`) is the reader's choice.
    let _ = printed.and_then(|()| out.flush());
    if outcome.left.is_empty() {
        Exit::Stored
    } else {
        Exit::Machine
    }
}

/// A run that began: its result, and what could not be removed.
struct Outcome {
    result: Result<Report, Halt>,
    left: Vec<String>,
}

fn measured(config: &Config, options: &Options, name: String, stop: Stop) -> Result<Outcome, Halt> {
    let plan = Plan::new(options.samples);
    let earlier = match &options.compare {
        None => None,
        Some(file) => Some(
            compare::read(file)
                .map_err(|words| Halt::refused(Exit::Usage, format!("--compare {}: {words}", file.display())))?,
        ),
    };
    let (mount, local) = (options.mount.as_deref(), options.local.as_deref());
    let place = place::find(mount, local, config, &plan, name, &stop)?;
    let address = ready(config, &place, &stop)?;
    let far = stop.wait(Far::connect(config, &place.name))?;
    let witness = match (&far, address) {
        (Ok(far), address) => Witness::Bucket(Box::new(far.clone()), address),
        (Err(_), Some(address)) => Witness::Status {
            address,
            interval: config.health.mount_interval + Duration::from_secs(1),
        },
        (Err(reason), None) => Witness::Nobody(reason.clone()),
    };
    let progress = Progress::stderr();
    let mut run = Run {
        config,
        plan,
        place: &place,
        runner: Runner { stop, progress },
        far,
        witness,
        report: Report::begin(&place, options.samples),
        notes: None,
    };
    let asked = |group: Group| options.only.is_empty() || options.only.contains(&group);
    let done = all(&mut run, &asked);
    let Runner { stop, progress } = run.runner;
    progress.step("removing what was made");
    let left = clean::up(&stop, &place, run.far.as_ref().ok(), &run.witness, run.notes.as_ref());
    progress.clear();
    let mut report = run.report;
    report.comparison = earlier
        .as_ref()
        .map(|earlier| compare::compare(earlier, &report.measures, |measure: Measure| asked(measure.group())));
    Ok(Outcome {
        result: done.map(|()| report),
        left,
    })
}

fn all(run: &mut Run<'_>, asked: &dyn Fn(Group) -> bool) -> Result<(), Halt> {
    run.place.folders.make()?;
    for group in [
        Group::Files,
        Group::Burst,
        Group::Mix,
        Group::Scan,
        Group::Events,
        Group::Notes,
    ] {
        if asked(group) {
            run.group(group)?;
        }
    }
    Ok(())
}

/// Where the tenant can be asked about its uploads. A tenant that is not ready is not measured: the numbers would be those of
/// an outage or a start.
fn ready(config: &Config, place: &Place, stop: &Stop) -> Result<Option<SocketAddr>, Halt> {
    if !place.own {
        return Ok(None);
    }
    let address = status::reachable(config.health.listen);
    match stop.wait(ask(address))? {
        Ok(snapshot) if snapshot.ready => Ok(Some(address)),
        Ok(snapshot) => {
            let reasons = snapshot.reasons.join("; ");
            let words = format!("the tenant is not ready ({reasons}); `tenant-init status --wait 60` waits for it");
            Err(Halt::refused(Exit::Unavailable, words))
        }
        Err(error) => Err(Halt::refused(Exit::Unavailable, error.to_string())),
    }
}
