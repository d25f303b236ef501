//! The parts of a run, one after the other. Each reports what it measured and says why it could not measure the rest.

use std::path::PathBuf;

use super::far::{Far, Witness, ask};
use super::halt::Halt;
use super::mcp::Mcp;
use super::measure::{BURST, Group, Measure, Plan};
use super::notes::{self, Servers};
use super::place::Place;
use super::report::Report;
use super::sides::{Folders, Runner, Samples, Side, time};
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
    pub(super) path: PathBuf,
}

impl Run<'_> {
    fn done(&mut self, measure: Measure, samples: &Samples) {
        if let Some(measured) = self.report.add(measure, samples) {
            self.runner.progress.say(&table::line(measured));
        }
    }

    /// All measures of a group that have no result yet.
    fn skip_group(&mut self, group: Group, reason: &str) {
        for &measure in Measure::ALL.iter().filter(|measure| measure.group() == group) {
            self.report.skip(measure, reason);
        }
    }

    /// Does one part.
    pub(super) fn group(&mut self, group: Group) -> Result<(), Halt> {
        match group {
            Group::Files => self.files(),
            Group::Burst => self.burst(),
            Group::Mix => self.mix(),
            Group::Scan => self.scan(),
            Group::Events => self.events(),
            Group::Notes => self.notes(),
        }
    }

    fn files(&mut self) -> Result<(), Halt> {
        let (folder, samples) = (self.place.folders.join("files"), self.plan.files);
        let created = files::create(&self.runner, &folder, samples)?;
        self.done(Measure::Create, &created);
        self.runner.progress.step("waiting until they are stored");
        let stored = self.witness.stored(&self.runner, "files/", files::kept(samples))?;
        if let Err(reason) = stored {
            let words =
                format!("whether files were stored before they were renamed and deleted is not known: {reason}");
            self.report.remarks.push(words);
        }
        let runner = self.runner.clone();
        files::operations(&runner, &folder, samples, &mut |measure, samples| {
            self.done(measure, &samples)
        })?;
        self.far_reads()
    }

    /// First reads of objects that the mount has never held.
    fn far_reads(&mut self) -> Result<(), Halt> {
        const MEASURE: Measure = Measure::FirstReadBucket;
        let measured = match self.far.clone() {
            Ok(far) => self.far_samples(&far, MEASURE.what())?,
            Err(reason) => Err(reason),
        };
        match measured {
            Ok(samples) => self.done(MEASURE, &samples),
            Err(reason) => self.report.skip(MEASURE, reason),
        }
        Ok(())
    }

    fn far_samples(&self, far: &Far, what: &str) -> Result<Result<Samples, String>, Halt> {
        let (folder, count) = (self.place.folders.join("far"), self.plan.far_reads);
        let names: Vec<String> = (0..count).map(|number| format!("{number}.md")).collect();
        let content = files::text(0, files::NOTE);
        self.runner.progress.step("putting notes into the bucket");
        folder.make()?;
        let objects = names.iter().map(|name| format!("far/{name}")).collect();
        if let Err(reason) = far.put_all(&self.runner, objects, &content)? {
            return Ok(Err(reason));
        }
        for name in &names {
            let path = folder.local.join(name);
            files::write(&path, &content)
                .and_then(|()| files::forget(&path))
                .map_err(|error| Halt::file("cannot write on local disk", error))?;
        }
        // Listing it first leaves only the content to be fetched.
        let seen = files::count(&folder.mount).map_err(|error| Halt::file("cannot list on the mount", error))?;
        if seen != count {
            return Ok(Err(format!(
                "the mount shows {seen} of {count} objects that were put into the bucket: are the credentials those of its bucket?"
            )));
        }
        let samples = self.runner.compare(what, count, &mut |side, number| {
            let path = folder.at(side).join(format!("{number}.md"));
            time(|| files::read(&path, files::NOTE))
        });
        samples.map(Ok)
    }

    fn burst(&mut self) -> Result<(), Halt> {
        let (mut written, mut stored) = (Samples::default(), Samples::default());
        let mut reason = None;
        for number in 0..self.plan.bursts {
            self.runner.progress.step(Measure::BurstWrite.what());
            self.runner.progress.tick(number, self.plan.bursts);
            let name = format!("burst-{number}");
            let began = burst::burst(&self.runner, &self.place.folders.join(&name), &mut written, number)?;
            if reason.is_some() {
                continue;
            }
            self.runner.progress.step(Measure::BurstStore.what());
            match self.witness.stored(&self.runner, &format!("{name}/"), BURST)? {
                Ok(()) => stored.push(Side::Mount, began.elapsed()),
                Err(words) => reason = Some(words),
            }
        }
        self.done(Measure::BurstWrite, &written);
        self.done(Measure::BurstStore, &stored);
        if let Some(reason) = reason {
            self.report.skip(Measure::BurstStore, reason);
        }
        Ok(())
    }

    fn mix(&mut self) -> Result<(), Halt> {
        let samples = burst::mix(&self.runner, &self.place.folders.join("mix"), self.plan.mix_rounds)?;
        self.done(Measure::Mix, &samples);
        Ok(())
    }

    fn scan(&mut self) -> Result<(), Halt> {
        let mut trees = self.place.folders.join("scan");
        self.runner.progress.step("writing 1,460 files on local disk");
        scan::plant(&self.runner, &trees.local)?;
        let mut cold = Samples::default();
        let missing = match self.far.clone() {
            Err(reason) => Err(reason),
            Ok(far) => self.cold_scans(&far, &mut trees, &mut cold)?,
        };
        self.done(Measure::ScanCold, &cold);
        if let Err(reason) = missing {
            self.report.skip(Measure::ScanCold, reason);
        }
        if cold.mount.is_empty() {
            // Without a way to the bucket the tree is written through the mount, which then knows every name.
            self.runner.progress.step("writing 1,460 files on the mount");
            trees.mount = self.place.folders.mount.join("scan-known");
            scan::plant(&self.runner, &trees.mount)?;
        }
        let warm = scan::warm(&self.runner, &trees, self.plan.warm_scans)?;
        self.done(Measure::ScanWarm, &warm);
        Ok(())
    }

    /// Leaves the last tree of the mount in `trees`. The inner error says why there is no further one.
    fn cold_scans(&self, far: &Far, trees: &mut Folders, cold: &mut Samples) -> Result<Result<(), String>, Halt> {
        for number in 0..self.plan.cold_scans {
            self.runner.progress.step("putting 1,460 files into the bucket");
            let name = format!("scan-{number}");
            let root = self.place.folders.mount.join(&name);
            std::fs::create_dir(&root).map_err(|error| Halt::file(format!("cannot make {}", root.display()), error))?;
            let names = scan::names().map(|file| format!("{name}/{file}")).collect();
            if let Err(reason) = far.put_all(&self.runner, names, &scan::content())? {
                return Ok(Err(reason));
            }
            self.runner.progress.step(Measure::ScanCold.what());
            trees.mount = root;
            scan::cold(&self.runner, trees, number, cold)?;
        }
        Ok(Ok(()))
    }

    fn events(&mut self) -> Result<(), Halt> {
        let far = match self.far.clone() {
            Ok(far) => far,
            Err(reason) => {
                self.skip_group(Group::Events, &reason);
                return Ok(());
            }
        };
        let folder = self.place.folders.mount.join("events");
        // Listed once, so that the mount believes to know what is in it, as it does of a folder in use.
        std::fs::create_dir(&folder)
            .and_then(|()| files::count(&folder))
            .map_err(|error| Halt::file(format!("cannot make {}", folder.display()), error))?;
        let watched = match self.witness.address() {
            None => true,
            Some(address) => self
                .runner
                .stop
                .wait(ask(address))?
                .is_ok_and(|snapshot| snapshot.changes.watching),
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
        let silent = event::listen(&self.runner, &far, &folder, self.plan.events, watched, &mut report)?;
        for (measure, samples) in &heard {
            self.done(*measure, samples);
        }
        for (measure, reason) in silent {
            if heard.iter().any(|(known, _)| *known == measure) {
                let words = format!("{}: after the last one counted, {reason}", measure.what());
                self.report.remarks.push(words);
            }
            self.report.skip(measure, reason);
        }
        Ok(())
    }

    /// The tenant's own app and the folder of its default project, or why there is none to be measured.
    fn app(&self) -> Result<Result<(Mcp, PathBuf), String>, Halt> {
        let (config, app) = (self.config, &self.config.app);
        if !self.place.own {
            return Ok(Err(
                "the mount is not the tenant's, whose app would be measured".to_owned()
            ));
        }
        if !command::is_basic_memory(config) {
            return Ok(Err("the app is not basic-memory: no MCP server".to_owned()));
        }
        let server = match self.runner.stop.wait(Mcp::open(&app.host, app.port))? {
            Ok(server) => server,
            Err(reason) => return Ok(Err(format!("no MCP server: {reason}"))),
        };
        Ok(match notes::default_project(config) {
            Some(project) if project.starts_with(&config.mount.path) => Ok((server, project)),
            Some(_) => Err("basic-memory's default project is not on the mount".to_owned()),
            None => {
                Err("basic-memory's configuration cannot be read: run it as root, or as the user of the app".to_owned())
            }
        })
    }

    fn notes(&mut self) -> Result<(), Halt> {
        let (mount, project) = match self.app()? {
            Ok(found) => found,
            Err(reason) => {
                self.skip_group(Group::Notes, &reason);
                return Ok(());
            }
        };
        let config = self.config;
        let directory = self.place.name.trim_start_matches('.').to_owned();
        self.notes = Some(OurNotes {
            server: mount.clone(),
            path: project.join(&directory),
            directory: directory.clone(),
        });
        self.runner
            .progress
            .step("starting a second basic-memory on local disk");
        let twin = match Twin::start(config, &self.place.folders.local.join("notes"), &self.runner.stop)? {
            Ok(twin) => Some(twin),
            Err(reason) => {
                let words = format!("note operations have nothing to be compared with: {reason}");
                self.report.remarks.push(words);
                None
            }
        };
        let done = self.rounds(mount, twin.as_ref(), &directory);
        if let Some(twin) = twin {
            twin.end(&self.runner.stop);
        }
        if let Err(reason) = done? {
            self.skip_group(Group::Notes, &reason);
            let words = format!("note operations ended early: {reason}");
            self.report.remarks.push(words);
        }
        Ok(())
    }

    fn rounds(&mut self, mount: Mcp, twin: Option<&Twin>, directory: &str) -> Result<Result<(), String>, Halt> {
        let local = match twin {
            None => None,
            Some(twin) => match self.runner.stop.wait(Mcp::open("127.0.0.1", twin.port))? {
                Ok(local) => Some(local),
                Err(reason) => return Ok(Err(reason)),
            },
        };
        let servers = Servers { mount, local };
        // The first call of each tool imports what it needs, on both sides; that is no measurement.
        self.runner.progress.step("first calls of basic-memory's tools");
        let first = format!("{directory}/first");
        if let Err(reason) = notes::measure(&self.runner, &servers, &first, 1, &mut |_, _| ())? {
            return Ok(Err(reason));
        }
        let (runner, count) = (self.runner.clone(), self.plan.notes);
        notes::measure(&runner, &servers, directory, count, &mut |measure, samples| {
            self.done(measure, &samples)
        })
    }
}
