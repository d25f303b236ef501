//! The command line (design contract, section 7): parse, set up the log, hand over.

mod local;
mod man;

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::config::{self, Config, Environment, Flag, FlagValue, Sources};
use crate::core::orphaned::Died;
use crate::exit::Exit;
use crate::init;
use crate::preflight::{Scope, Style};
use crate::supervise::View;
use crate::{bench, credentials, dev, index, mount, ops, preflight, supervise};
use local::{HandedOn, Mount};

/// Entry point of a tenant's container: mounts the tenant's bucket, keeps its index, runs its app, and loses no
/// acknowledged write silently.
#[derive(Debug, Parser)]
#[command(name = "tenant-init", version, max_term_width = 100, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// One request of `copy-index` may take this long.
const COPY_CALL: Duration = Duration::from_secs(20);

const EXIT_CODES: &str = "\
Exit codes:
  0   stopped as asked, everything is stored
  64  wrong command line
  69  bucket or database unreachable at start, or an outage past its limit; status: not ready
  70  a bug in tenant-init
  71  this machine can't: no NFS and no FUSE, a missing capability, mountpoint busy, port taken, disk full
  74  stopped with data not stored: the last line on stdout names it
  75  a restart budget is used up
  77  credentials rejected, tenant mismatch, or another machine holds the lease
  78  configuration wrong, the bucket does not exist, or the cache directory can't be made
  exec, and run when the app ends by itself: the command's own code, 128+signal, 127 not found, 126 not executable";

#[derive(Debug, Subcommand)]
enum Command {
    /// Supervise the tenant; the default app is basic-memory
    Run(Run),
    /// Plain init: forward signals, reap, exit with CMD's code
    Exec {
        /// The command and its arguments
        #[arg(trailing_var_arg = true, required = true, value_name = "CMD")]
        command: Vec<OsString>,
    },
    /// Check every precondition, one line each; changes nothing
    Check {
        #[command(flatten)]
        config: ConfigFile,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Ask the running instance; exit 0 only when it is ready
    Status {
        #[command(flatten)]
        config: ConfigFile,
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Wait until it is ready, at most this long
        #[arg(long, value_name = "SECONDS")]
        wait: Option<f64>,
    },
    /// Local access: the tenant's files on your computer, in the foreground; Ctrl-C stores what is left and unmounts
    Mount(Mount),
    /// The spec's measurements: the running tenant's mount against local disk, in turns in one run; leaves nothing behind
    Bench(Bench),
    /// Write a copy of the tenant's index, for basic-memory or SQLite elsewhere; changes nothing, a read-only token is enough
    CopyIndex {
        /// The file to write, for example ~/.basic-memory/memory.db; basic-memory must not be running on it
        file: PathBuf,
        #[command(flatten)]
        config: ConfigFile,
    },
    /// No cloud account: start an S3 and a libSQL server on this machine, then run
    Dev(Run),
    /// Print the man page, made from this definition (`make man`)
    #[command(hide = true)]
    Man,
    /// Write the completions of a shell to stdout
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// The supervisor itself; the guardian starts it
    #[command(hide = true)]
    Supervise {
        /// Start the servers of `dev` first
        #[arg(long)]
        dev: bool,
        #[command(flatten)]
        local: HandedOn,
        #[command(flatten)]
        run: Run,
    },
    /// Stores and ends what a dead supervisor left; the guardian starts it
    #[command(hide = true)]
    Recover {
        /// Process id of the guardian: everything below it that is not a mounter is ended
        #[arg(long)]
        guardian: i32,
        /// Exit code when everything is stored
        #[arg(long)]
        code: u8,
        /// Stop signals that the supervisor got
        #[arg(long)]
        stops: u32,
        /// How the supervisor died
        #[arg(long)]
        died: String,
        /// The directory that relative paths start from
        #[arg(long)]
        directory: PathBuf,
        #[command(flatten)]
        local: HandedOn,
        #[command(flatten)]
        run: Run,
    },
    /// Touch the mount so that nothing else can hang on it
    #[command(hide = true)]
    Probe {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

#[derive(Debug, Args)]
struct ConfigFile {
    /// Configuration file [default: /etc/tenant-init.toml if it exists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Run {
    #[command(flatten)]
    config: ConfigFile,
    /// Run this on the mount instead of basic-memory
    #[arg(last = true, value_name = "APP")]
    app: Vec<String>,
}

#[derive(Debug, Args)]
struct Bench {
    #[command(flatten)]
    config: ConfigFile,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Compare with this earlier result of `bench --json`
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,
    /// How often each file operation is measured; what takes longer is measured less often
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    samples: u32,
    /// Only these parts
    #[arg(long, value_name = "PART", value_enum, value_delimiter = ',')]
    only: Vec<bench::Group>,
    /// Measure this mount [default: mount.path]
    #[arg(long, value_name = "DIR")]
    mount: Option<PathBuf>,
    /// Compare it with this local directory [default: the disk of app.config_dir]
    #[arg(long, value_name = "DIR")]
    local: Option<PathBuf>,
}

/// Parses the command line and runs the subcommand.
#[must_use]
pub fn main() -> Exit {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // A closed stdout or stderr leaves nobody to tell.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Stored };
        }
    };
    match cli.command {
        Command::Run(run) => guard(&run, false, &HandedOn::default()),
        Command::Dev(run) => guard(&run, true, &HandedOn::default()),
        Command::Mount(options) => mount_here(options),
        Command::Completions { shell } => completions(shell),
        Command::Exec { command } => Exit::from_code(init::exec(&command)),
        Command::Supervise { dev, local, run } => supervisor(&run, dev, &local, None),
        Command::Recover {
            guardian,
            code,
            stops,
            died: words,
            directory,
            local,
            run,
        } => {
            // It was there when the supervisor began. Without it only relative paths lead nowhere, and say so.
            let _ = std::env::set_current_dir(directory);
            let died = Died { words, code, stops };
            supervisor(&run, false, &local, Some((guardian, died)))
        }
        Command::Check { config, json } => with_config(Sources::process(config.config), |config| check(&config, json)),
        Command::Status { config, json, wait } => {
            with_config(Sources::process(config.config), |config| status(&config, json, wait))
        }
        Command::Bench(options) => {
            let sources = Sources::process(options.config.config.clone());
            with_config(sources, |config| measure(&config, options))
        }
        Command::CopyIndex { file, config } => {
            with_config(Sources::process(config.config), |config| copy_index(&config, &file))
        }
        Command::Man => {
            // A closed stdout leaves nobody to tell.
            let _ = man::write(Cli::command(), EXIT_CODES, &mut std::io::stdout());
            Exit::Stored
        }
        Command::Probe { arguments } => Exit::from_code(mount::probe::main(&arguments)),
    }
}

/// The guardian with the supervisor as its child: the same program, the same arguments.
fn guard(run: &Run, dev: bool, local: &HandedOn) -> Exit {
    let mut command: Vec<OsString> = vec!["/proc/self/exe".into(), "supervise".into()];
    if dev {
        command.push("--dev".into());
    }
    command.extend(local.arguments());
    if let Some(file) = &run.config.config {
        command.extend(["--config".into(), file.into()]);
    }
    if !run.app.is_empty() {
        command.push("--".into());
        command.extend(run.app.iter().map(OsString::from));
    }
    // The servers of `dev` end with the supervisor: nothing could be stored any more.
    let recovery = (!dev).then(|| recovery(&command));
    Exit::from_code(init::guard_supervisor(&command, recovery))
}

/// `mount`: what is wrong with the command line and the configuration is said before anything runs.
fn mount_here(options: Mount) -> Exit {
    let mut local = match options.resolve() {
        Ok(local) => local,
        Err(words) => {
            let _ = writeln!(std::io::stderr(), "tenant-init: {words}");
            return Exit::Config;
        }
    };
    let run = Run {
        config: options.config,
        app: Vec::new(),
    };
    let mut sources = Sources::process(run.config.config.clone());
    local.apply(&mut sources);
    with_config(sources, |config| {
        local.settle(&config);
        guard(&run, false, &local)
    })
}

fn completions(shell: clap_complete::Shell) -> Exit {
    let all = Cli::command();
    // What is started by tenant-init itself is not for typing.
    let offered = all.get_subcommands().filter(|command| !command.is_hide_set());
    let mut command = clap::Command::new("tenant-init")
        .version(env!("CARGO_PKG_VERSION"))
        .subcommands(offered.cloned());
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "tenant-init", &mut script);
    // A closed stdout leaves nobody to tell.
    let _ = std::io::stdout().write_all(&script);
    Exit::Stored
}

/// `recover` with the arguments of the supervisor. The guardian leaves this directory.
fn recovery(supervise: &[OsString]) -> init::Recovery {
    let split = supervise.iter().position(|word| word == "--");
    let (options, after) = supervise.split_at(split.unwrap_or(supervise.len()));
    let mut before: Vec<OsString> = vec!["/proc/self/exe".into(), "recover".into(), "--directory".into()];
    before.push(std::env::current_dir().unwrap_or_else(|_| "/".into()).into());
    before.extend_from_slice(&options[2..]);
    init::Recovery {
        before,
        after: after.to_vec(),
    }
}

fn with_config(sources: Sources, then: impl FnOnce(Config) -> Exit) -> Exit {
    match config::load(&sources) {
        Ok(config) => then(config),
        Err(errors) => {
            let _ = writeln!(std::io::stderr(), "{errors}");
            Exit::Config
        }
    }
}

fn supervisor(run: &Run, dev: bool, local: &HandedOn, died: Option<(i32, Died)>) -> Exit {
    let mut sources = Sources::process(run.config.config.clone());
    sources.dev = dev;
    local.apply(&mut sources);
    if !run.app.is_empty() {
        let value = FlagValue::Words(run.app.clone());
        sources.flags.push(Flag {
            key: "app.command".into(),
            name: "-- APP".into(),
            value,
        });
    }
    with_config(sources, |config| {
        let log = match ops::log::init(&config.log, local.is_given()) {
            Ok(log) => log,
            Err(error) => {
                let _ = writeln!(std::io::stderr(), "tenant-init: {error}");
                return Exit::Machine;
            }
        };
        if local.is_given() {
            ops::front::open(log.lines());
        }
        die_on_panic();
        let watched = |view| watch(&config, view);
        let exit = block_on(async {
            match died {
                Some((guardian, died)) => {
                    // What is left has to be stored, whoever has the directory by now.
                    let _held = local.is_given().then(|| local::hold(&config));
                    supervise::orphaned::recover(config.clone(), guardian, died, watched).await
                }
                None if dev => dev::run(config.clone()).await,
                None if local.is_given() => run_held(config.clone(), watched).await,
                None => supervise::run(config.clone(), supervise::Keys::Configured, watched).await,
            }
        });
        drop(log);
        exit
    })
}

/// The front end of a local mount.
fn watch(config: &Config, view: View) {
    if config.mount.local.is_some() {
        let show = ops::front::show(Arc::new(config.clone()), view.snapshot, view.draining);
        tokio::task::spawn_local(show);
    }
}

/// A local mount, if nobody else has one in the same place.
async fn run_held(config: Config, watched: impl FnOnce(View)) -> Exit {
    match local::hold(&config) {
        Ok(_held) => supervise::run(config, supervise::Keys::Configured, watched).await,
        Err(words) => supervise::finish::before_the_start(&config, Exit::Machine, &words),
    }
}

/// A supervisor that lost one of its tasks must not go on as if nothing had happened: the guardian takes over.
fn die_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        print(info);
        std::process::exit(i32::from(init::PANIC));
    }));
}

/// One thread for everything.
fn block_on(work: impl Future<Output = Exit>) -> Exit {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => {
            let exit = tokio::task::LocalSet::new().block_on(&runtime, work);
            // A thread that waits for a dead name server or file system must not hold up the end.
            runtime.shutdown_background();
            exit
        }
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "tenant-init: cannot start its runtime: {error}");
            Exit::Machine
        }
    }
}

fn check(config: &Config, json: bool) -> Exit {
    block_on(async {
        let bundle = credentials::fetch(config, &Environment::process()).await;
        let findings = preflight::run(config, bundle.as_ref(), None, Scope::Check).await;
        let style = match (json, ops::log::colours(&std::io::stdout())) {
            (true, _) => Style::Json,
            (false, true) => Style::Colour,
            (false, false) => Style::Plain,
        };
        // A closed stdout leaves nobody to tell; the exit code says the same.
        let _ = preflight::render(&findings, &mut std::io::stdout(), style);
        preflight::verdict(&findings).map_or(Exit::Stored, |(exit, _)| exit)
    })
}

fn copy_index(config: &Config, file: &Path) -> Exit {
    let fail = |exit: Exit, words: String| {
        let _ = writeln!(std::io::stderr(), "tenant-init: {words}");
        exit
    };
    block_on(async {
        let bundle = match credentials::fetch(config, &Environment::process()).await {
            Ok(bundle) => bundle,
            Err(error) => return fail(error.exit(), error.to_string()),
        };
        let Some(target) = &bundle.index else {
            let words =
                "the credentials name no index database: set DATABASE_URL, or TURSO_DATABASE_URL and TURSO_AUTH_TOKEN";
            return fail(Exit::Config, words.into());
        };
        let remote = match index::Remote::connect(target) {
            Ok(remote) => remote,
            Err(error) => return fail(error.exit(), format!("{error}; {}", error.advice())),
        };
        match index::copy::copy(&remote, file, COPY_CALL).await {
            Ok(copied) => {
                let (rows, position) = (copied.rows, copied.position);
                let _ = writeln!(
                    std::io::stdout(),
                    "{}: {rows} row(s), position {position}",
                    file.display()
                );
                Exit::Stored
            }
            Err(error) => fail(error.exit(), error.to_string()),
        }
    })
}

fn measure(config: &Config, options: Bench) -> Exit {
    let options = bench::Options {
        json: options.json,
        compare: options.compare,
        samples: usize::try_from(options.samples).unwrap_or(usize::MAX),
        only: options.only,
        mount: options.mount,
        local: options.local,
    };
    block_on(bench::run(config.clone(), options))
}

fn status(config: &Config, json: bool, wait: Option<f64>) -> Exit {
    let wait = wait.map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or(Duration::ZERO));
    let options = ops::status::Options {
        listen: config.health.listen,
        json,
        wait,
    };
    block_on(async { ops::status::status(&options, &mut std::io::stdout()).await })
}
