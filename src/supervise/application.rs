//! The app as an effect: start it, wait for its answer, tell when it and its whole group are gone.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::rc::Rc;
use std::{fs, io};

use nix::sys::signal::Signal;
use tokio::sync::oneshot;

use crate::app::{command, projects, ready};
use crate::core::event::{AppEvent, Event, Failure};
use crate::exit::Exit;
use crate::process::oom::Kills;
use crate::process::{self, Ended, Spec};
use crate::supervise::effects::{App, Shared};
use crate::supervise::warm;

/// 128 + SIGKILL
const KILLED: u8 = 137;

/// Starts the app and follows it to its end.
pub async fn start(shared: Rc<Shared>) {
    let (call_off, called_off) = oneshot::channel();
    shared.app.replace(App::Starting(call_off));
    if shared.config.mount.local.is_some() {
        // Whatever the user runs is the app, and nothing of it is ours to start or to end.
        shared.send(Event::App(AppEvent::Ready));
        let _ = called_off.await;
        return shared.send(Event::App(AppEvent::Gone));
    }
    let made = tokio::select! {
        made = files(&shared) => made,
        // Not an error: the sender goes away only with us.
        _ = called_off => return shared.send(Event::App(AppEvent::Gone)),
    };
    if let Err(failure) = made {
        shared.app.take();
        return shared.send(Event::App(AppEvent::Failed(failure)));
    }
    let has_index = shared.tenant().is_some_and(|tenant| tenant.index.is_some());
    let spec = spec(&shared, has_index);
    let kills = Kills::find();
    let kills_before = kills.as_ref().and_then(Kills::count);
    let started = match warm::go_on(&shared).await {
        Some(started) => Ok(started),
        None => process::spawn(&spec),
    };
    let (mut child, group) = match started {
        Ok(started) => started,
        Err(error) => {
            shared.app.take();
            let words = format!("cannot start the app {:?}: {error}", spec.command);
            return shared.send(Event::App(AppEvent::Failed(Failure::new(Exit::Machine, words))));
        }
    };
    shared.app.replace(App::Running(group));
    let pid = child.id().unwrap_or_default();
    tracing::info!(
        event = "app_started",
        pid,
        "the app was started: {}",
        shown(&spec.command)
    );
    shared.send(Event::App(AppEvent::Started { pid }));

    let answer = async {
        // A command of the user's own has no answer to wait for.
        if command::is_basic_memory(&shared.config) {
            ready::answered(&shared.config.app.host, shared.config.app.port).await;
        }
    };
    let ended = tokio::select! {
        biased;
        ended = child.wait() => ended,
        () = answer => {
            shared.send(Event::App(AppEvent::Ready));
            child.wait().await
        }
    };
    let Ended { code, words } = match ended {
        Ok(status) => Ended::from(status),
        Err(error) => Ended {
            code: 255,
            words: format!("its end could not be observed: {error}"),
        },
    };
    // Its own child may have been the victim: a shell hands that on as 137.
    let out_of_memory = code == KILLED && kills.as_ref().and_then(Kills::count) > kills_before;
    let words = if out_of_memory {
        format!("out of memory: the kernel killed it ({words}). Give the machine more memory, or the app less to do")
    } else {
        words
    };
    tracing::info!(
        event = "app_ended",
        pid,
        code,
        out_of_memory,
        "the app's main process ended: {words}"
    );
    shared.send(Event::App(AppEvent::Exited {
        code,
        words,
        out_of_memory,
    }));
    group.empty().await;
    shared.app.take();
    shared.send(Event::App(AppEvent::Gone));
}

/// `adapted`: without its adapter (adapter/tenant_index.pth) the app must not run. Of what it writes nothing would reach the
/// database.
pub fn spec(shared: &Shared, adapted: bool) -> Spec {
    let mut spec = command::spec(&shared.config);
    if adapted {
        spec.environment.push(("TENANT_INDEX_REQUIRED".into(), "1".into()));
    }
    spec
}

fn shown(command: &[std::ffi::OsString]) -> String {
    command
        .iter()
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Signals the app's whole group. An app that is about to be started is not started.
pub fn signal(shared: &Shared, signal: Signal) {
    match shared.app.take() {
        App::Off => {}
        App::Starting(call_off) => {
            // If the other end is gone the start has failed, and said so.
            let _ = call_off.send(());
        }
        App::Running(group) => {
            group.signal(signal);
            shared.app.replace(App::Running(group));
        }
    }
}

/// basic-memory's directory and its `config.json`, made from what is there and what the bucket remembers.
async fn files(shared: &Shared) -> Result<(), Failure> {
    let config = &shared.config;
    let Some(tenant) = shared.tenant().filter(|_| command::is_basic_memory(config)) else {
        return Ok(());
    };
    let file = config.app.config_dir.join("config.json");
    let existing = fs::read_to_string(&file).ok();
    // Without a local file the bucket's list is needed: an app started without it would forget the tenant's projects.
    let saved = match &existing {
        Some(_) => None,
        None => tenant.saved_projects().await?,
    };
    let text = projects::config_json(
        existing.as_deref(),
        saved.as_ref(),
        &config.mount.path,
        &command::main_project(config),
    );
    let owner = tenant.owner;
    let written = make_directory(&config.app.config_dir, owner).and_then(|()| {
        if existing.as_deref() == Some(text.as_str()) {
            return Ok(());
        }
        let fresh = file.with_extension("json.new");
        fs::write(&fresh, &text)?;
        chown_if_root(&fresh, owner)?;
        fs::rename(&fresh, &file)
    });
    written.map_err(|error| {
        let words = format!(
            "cannot write {}: {error}. app.config_dir must be a writable local directory",
            file.display()
        );
        Failure::new(Exit::Config, words)
    })
}

pub fn make_directory(path: &Path, owner: (u32, u32)) -> io::Result<()> {
    fs::create_dir_all(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
    chown_if_root(path, owner)
}

fn chown_if_root(path: &Path, (uid, gid): (u32, u32)) -> io::Result<()> {
    if nix::unistd::geteuid().is_root() {
        chown(path, Some(uid), Some(gid))
    } else {
        Ok(())
    }
}

/// Keeps the list of projects in the bucket if basic-memory changed it.
pub async fn save_projects(shared: &Shared) {
    let config = &shared.config;
    let Some(tenant) = shared.tenant().filter(|_| command::is_basic_memory(config)) else {
        return;
    };
    let Ok(text) = fs::read_to_string(config.app.config_dir.join("config.json")) else {
        return;
    };
    if let Some(saved) = projects::extract(&text, &config.mount.path) {
        tenant.save_projects(saved).await;
    }
}
