//! The parts of a run, one after the other. Each reports what it measured and says why it could not measure the rest.

use super::far::{Far, Witness, ask};
use super::halt::Halt;
use super::mcp::Mcp;
use super::measure::{BURST, Group, Measure, Plan};
use super::notes::{self, Servers};
use super::place::Place;
use super::report::Report;
use super::sides::{Folders, Later, Runner, Samples, Side, blocking, timed};
use super::twin::Twin;
use super::{burst, event, files, scan, table};
use crate::app::command;
use crate::config::Config;

/// What every part needs.
pub(super) struct Run<'a> {
    pub(super) config: &'a Config,
    pub(super) plan: Plan,
    pub(super) place: &'a Place,
    pub(super) runner: Runner,
    /// The bucket, or why there is no way to it.
    pub(super) far: Result<Far, String>,
    pub(super) witness: Witness,
    pub(super) report: Report,
    /// The folder of our notes in the tenant's project, once there may be notes.
    pub(super) notes: Option<OurNotes>,
}

/// Notes that were written through the tenant's app.
pub(super) struct OurNotes {
    pub(super) server: Mcp,
    pub(super) directory: String,
    pub(super) path: std::path::PathBuf,
}

impl Run<'_> {
    fn done(&mut self, measure: Measure, samples: &Samples) {
        if let Some(measured) = self.report.add(measure, samples) {
            self.runner.progress.say(&table::line(measured));
        }
    }

    fn skip(&mut self, measures: &[Measure], reason: &str) {
        for &measure in measures {
            self.report.skip(measure, reason);
        }
    }

    /// All measures of a group that have no result yet.
    fn skip_group(&mut self, group: Group, reason: &str) {
        for &measure in Measure::ALL.iter().filter(|measure| measure.group() == group) {
            self.report.skip(measure, reason);
        }
    }

    /// Does one part.
    pub(super) fn group(&mut self, group: Group) -> Later<'_, Result<(), Halt>> {
        match group {
            Group::Files => Box::pin(self.files()),
            Group::Burst => Box::pin(self.burst()),
            Group::Mix => Box::pin(self.mix()),
            Group::Scan => Box::pin(self.scan()),
            Group::Events => Box::pin(self.events()),
            Group::Notes => Box::pin(self.notes()),
        }
    }

    async fn files(&mut self) -> Result<(), Halt> {
        let (folder, samples) = (self.place.folders.join("files"), self.plan.files);
        let created = self.on_thread({
            let folder = folder.clone();
            move |runner| files::create(runner, &folder, samples)
        });
        let created = created.await?;
        self.done(Measure::Create, &created);
        self.runner.progress.step("waiting until they are stored");
        if let Err(reason) = self
            .witness
            .stored(&self.runner, "files/", files::kept(samples))
            .await?
        {
            let words =
                format!("whether files were stored before they were renamed and deleted is not known: {reason}");
            self.report.remarks.push(words);
        }
        let measured = self.on_thread(move |runner| {
            let mut measured = Vec::new();
            files::operations(runner, &folder, samples, |measure, samples| {
                measured.push((measure, samples))
            })?;
            Ok(measured)
        });
        for (measure, samples) in measured.await? {
            self.done(measure, &samples);
        }
        self.far_reads().await
    }

    /// First reads of objects that the mount has never held.
    async fn far_reads(&mut self) -> Result<(), Halt> {
        let far = match &self.far {
            Ok(far) => far.clone(),
            Err(reason) => {
                let reason = reason.clone();
                self.skip(&[Measure::FirstReadBucket], &reason);
                return Ok(());
            }
        };
        let (folder, count) = (self.place.folders.join("far"), self.plan.far_reads);
        let names: Vec<String> = (0..count).map(|number| format!("{number}.md")).collect();
        let content = files::text(0, files::NOTE);
        self.runner.progress.step("putting notes into the bucket");
        folder.make()?;
        let objects = names.iter().map(|name| format!("far/{name}")).collect();
        if let Err(reason) = far.put_all(&self.runner, objects, &content).await? {
            self.skip(&[Measure::FirstReadBucket], &reason);
            return Ok(());
        }
        let measured = self.on_thread(move |runner| {
            for name in &names {
                let path = folder.local.join(name);
                files::write(&path, &content)
                    .and_then(|()| files::forget(&path))
                    .map_err(|error| Halt::file("cannot write on local disk", error))?;
            }
            let seen = files::count(&folder.mount).map_err(|error| Halt::file("cannot list on the mount", error))?;
            if seen != names.len() {
                return Ok(Err(not_shown(seen, names.len())));
            }
            runner
                .compare(Measure::FirstReadBucket.what(), names.len(), &mut |side, number| {
                    let path = folder.at(side).join(format!("{number}.md"));
                    timed(|| files::read(&path, files::NOTE)).map(|(took, ())| took)
                })
                .map(Ok)
        });
        match measured.await? {
            Ok(samples) => self.done(Measure::FirstReadBucket, &samples),
            Err(reason) => self.skip(&[Measure::FirstReadBucket], &reason),
        }
        Ok(())
    }

    async fn burst(&mut self) -> Result<(), Halt> {
        let (mut written, mut stored) = (Samples::default(), Samples::default());
        let mut reason = None;
        for number in 0..self.plan.bursts {
            self.runner.progress.step(Measure::BurstWrite.what());
            self.runner.progress.tick(number, self.plan.bursts);
            let name = format!("burst-{number}");
            let folder = self.place.folders.join(&name);
            let done = self.on_thread(move |runner| {
                let mut samples = Samples::default();
                let began = burst::burst(runner, &folder, &mut samples, number)?;
                Ok((samples, began))
            });
            let (samples, began) = done.await?;
            written.mount.extend(samples.mount);
            written.local.extend(samples.local);
            if reason.is_some() {
                continue;
            }
            self.runner.progress.step(Measure::BurstStore.what());
            match self.witness.stored(&self.runner, &format!("{name}/"), BURST).await? {
                Ok(()) => stored.push(Side::Mount, began.elapsed()),
                Err(words) => reason = Some(words),
            }
        }
        self.done(Measure::BurstWrite, &written);
        self.done(Measure::BurstStore, &stored);
        if let Some(reason) = reason {
            self.skip(&[Measure::BurstStore], &reason);
        }
        Ok(())
    }

    async fn mix(&mut self) -> Result<(), Halt> {
        let (folder, rounds) = (self.place.folders.join("mix"), self.plan.mix_rounds);
        let samples = self
            .on_thread(move |runner| burst::mix(runner, &folder, rounds))
            .await?;
        self.done(Measure::Mix, &samples);
        Ok(())
    }

    async fn scan(&mut self) -> Result<(), Halt> {
        let trees = |number: usize| Folders {
            mount: self.place.folders.mount.join(format!("scan-{number}")),
            local: self.place.folders.local.join("scan"),
        };
        let mut last = trees(0);
        self.runner.progress.step("writing 1,460 files on local disk");
        let local = last.local.clone();
        self.on_thread(move |runner| scan::plant(runner, &local)).await?;
        let mut cold = Samples::default();
        let missing = match self.far.clone() {
            Err(reason) => Some(reason),
            Ok(far) => {
                let mut missing = None;
                for number in 0..self.plan.cold_scans {
                    self.runner.progress.step("putting 1,460 files into the bucket");
                    let next = trees(number);
                    let root = next.mount.clone();
                    let made = std::fs::create_dir(&root);
                    made.map_err(|error| Halt::file(format!("cannot make {}", root.display()), error))?;
                    let names = scan::names().map(|name| format!("scan-{number}/{name}")).collect();
                    if let Err(reason) = far.put_all(&self.runner, names, &scan::content()).await? {
                        missing = Some(reason);
                        break;
                    }
                    self.runner.progress.step(Measure::ScanCold.what());
                    last = next.clone();
                    let samples = self.on_thread(move |runner| {
                        let mut samples = Samples::default();
                        scan::cold(runner, &next, number, &mut samples)?;
                        Ok(samples)
                    });
                    let samples = samples.await?;
                    cold.mount.extend(samples.mount);
                    cold.local.extend(samples.local);
                }
                missing
            }
        };
        self.done(Measure::ScanCold, &cold);
        if let Some(reason) = missing {
            self.skip(&[Measure::ScanCold], &reason);
        }
        if cold.mount.is_empty() {
            // Without a way to the bucket the tree is written through the mount, which then knows every name.
            self.runner.progress.step("writing 1,460 files on the mount");
            last.mount = self.place.folders.mount.join("scan-known");
            let root = last.mount.clone();
            self.on_thread(move |runner| scan::plant(runner, &root)).await?;
        }
        let count = self.plan.warm_scans;
        let warm = self.on_thread(move |runner| scan::warm(runner, &last, count)).await?;
        self.done(Measure::ScanWarm, &warm);
        Ok(())
    }

    async fn events(&mut self) -> Result<(), Halt> {
        let far = match &self.far {
            Ok(far) => far.clone(),
            Err(reason) => {
                let reason = reason.clone();
                self.skip_group(Group::Events, &reason);
                return Ok(());
            }
        };
        let folder = self.place.folders.mount.join("events");
        let made = folder.clone();
        self.on_thread(move |_| {
            // Listed once, so that the mount believes to know what is in it, as it does of a folder in use.
            std::fs::create_dir(&made)
                .and_then(|()| files::count(&made))
                .map_err(|error| Halt::file(format!("cannot make {}", made.display()), error))
        })
        .await?;
        let watched = match self.witness.address() {
            None => true,
            Some(address) => ask(address).await.is_ok_and(|snapshot| snapshot.changes.watching),
        };
        let mut heard: Vec<(Measure, Samples)> = Vec::new();
        let mut report = |measure, took| match heard.iter_mut().find(|(known, _)| *known == measure) {
            Some((_, samples)) => samples.push(Side::Mount, took),
            None => {
                let mut samples = Samples::default();
                samples.push(Side::Mount, took);
                heard.push((measure, samples));
            }
        };
        let count = self.plan.events;
        let silent = event::listen(&self.runner, &far, &folder, count, watched, &mut report).await?;
        for (measure, samples) in &heard {
            self.done(*measure, samples);
        }
        for (measure, reason) in silent {
            if heard.iter().any(|(known, _)| *known == measure) {
                let words = format!("{}: after the last one counted, {reason}", measure.what());
                self.report.remarks.push(words);
            }
            self.skip(&[measure], &reason);
        }
        Ok(())
    }

    async fn notes(&mut self) -> Result<(), Halt> {
        let config = self.config;
        let app = &config.app;
        if !self.place.own {
            self.skip_group(
                Group::Notes,
                "the mount is not the tenant's, whose app would be measured",
            );
            return Ok(());
        }
        if !command::is_basic_memory(config) {
            self.skip_group(Group::Notes, "the app is not basic-memory: no MCP server");
            return Ok(());
        }
        let mount = match self.runner.stop.or(Mcp::open(&app.host, app.port)).await? {
            Ok(server) => server,
            Err(reason) => {
                self.skip_group(Group::Notes, &format!("no MCP server: {reason}"));
                return Ok(());
            }
        };
        let project = match notes::default_project(config) {
            Some(project) if project.starts_with(&config.mount.path) => project,
            Some(_) => {
                self.skip_group(Group::Notes, "basic-memory's default project is not on the mount");
                return Ok(());
            }
            None => {
                let words = "basic-memory's configuration cannot be read: run it as root, or as the user of the app";
                self.skip_group(Group::Notes, words);
                return Ok(());
            }
        };
        let directory = self.place.name.trim_start_matches('.').to_owned();
        self.notes = Some(OurNotes {
            server: mount.clone(),
            path: project.join(&directory),
            directory: directory.clone(),
        });
        self.runner
            .progress
            .step("starting a second basic-memory on local disk");
        let twin = Twin::start(config, &self.place.folders.local.join("notes"), &self.runner.stop).await;
        self.runner.stop.check()?;
        let twin = match twin {
            Ok(twin) => Some(twin),
            Err(reason) => {
                let words = format!("note operations have nothing to be compared with: {reason}");
                self.report.remarks.push(words);
                None
            }
        };
        let done = self.rounds(mount, twin.as_ref(), &directory).await;
        if let Some(twin) = twin {
            twin.end(&self.runner.stop).await;
        }
        if let Err(reason) = done? {
            self.skip_group(Group::Notes, &reason);
            let words = format!("note operations ended early: {reason}");
            self.report.remarks.push(words);
        }
        Ok(())
    }

    async fn rounds(&mut self, mount: Mcp, twin: Option<&Twin>, directory: &str) -> Result<Result<(), String>, Halt> {
        let local = match twin {
            None => None,
            Some(twin) => match self.runner.stop.or(Mcp::open("127.0.0.1", twin.port)).await? {
                Ok(local) => Some(local),
                Err(reason) => return Ok(Err(reason)),
            },
        };
        let servers = Servers { mount, local };
        // The first call of each tool imports what it needs, on both sides; that is no measurement.
        self.runner.progress.step("first calls of basic-memory's tools");
        let first = format!("{directory}/first");
        if let Err(reason) = notes::measure(&self.runner, &servers, &first, 1, &mut |_, _| ()).await? {
            return Ok(Err(reason));
        }
        let mut measured = Vec::new();
        let count = self.plan.notes;
        let mut report = |measure, samples| measured.push((measure, samples));
        let done = notes::measure(&self.runner, &servers, directory, count, &mut report).await?;
        for (measure, samples) in &measured {
            self.done(*measure, samples);
        }
        Ok(done)
    }

    /// Blocking work with a runner of its own.
    async fn on_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Runner) -> Result<T, Halt> + Send + 'static,
    ) -> Result<T, Halt> {
        let runner = self.runner.clone();
        blocking(move || work(&runner)).await
    }
}

fn not_shown(seen: usize, put: usize) -> String {
    format!(
        "the mount shows {seen} of {put} objects that were put into the bucket: are the credentials those of its bucket?"
    )
}
