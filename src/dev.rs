//! `tenant-init dev`: the whole tenant without any cloud account.
//!
//! Two servers are started on this machine and supervised like any other child: an S3 server (`rclone serve s3` over a
//! plain folder, so that the objects can be looked at) and, where the program is present, a libSQL server (`sqld`). Both
//! listen on loopback only, with keys that are made for this run and thrown away. Then the tenant runs against them
//! exactly as `run` would, and the servers are stopped after its verdict.

mod server;

use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use secrecy::SecretString;

use crate::config::Config;
use crate::core::event::Failure;
use crate::credentials::{Bundle, Index, Storage};
use crate::exit::Exit;
use crate::mount;
use crate::process::{Spec, harmless_environment};
use crate::supervise::{self, Keys, View, finish};
use server::Server;

const BUCKET: &str = "notes";
/// A server of ours answers within milliseconds; a loaded machine may need longer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Starts the servers, runs the tenant, stops the servers.
pub async fn run(config: Config) -> Exit {
    let servers = match start(&config).await {
        Ok(servers) => servers,
        Err(failure) => return finish::before_the_start(&config, failure.exit, &failure.words),
    };
    let bundle = bundle(&config, &servers);
    let introduction = introduction(&config, servers.database.is_some());
    let watched = move |mut view: View| {
        tokio::task::spawn_local(async move {
            if view.snapshot.wait_for(|snapshot| snapshot.ready).await.is_ok() {
                for line in introduction {
                    tracing::info!(event = "dev", "{line}");
                }
            }
        });
    };
    let exit = supervise::run(config, Keys::Given(Box::new(bundle)), watched).await;
    servers.stop().await;
    exit
}

struct Servers {
    storage: Server,
    database: Option<Server>,
    key: (String, String),
}

impl Servers {
    async fn stop(self) {
        if let Some(database) = self.database {
            database.stop().await;
        }
        self.storage.stop().await;
    }
}

async fn start(config: &Config) -> Result<Servers, Failure> {
    let dir = &config.dev.dir;
    for folder in [dir.join("s3").join(BUCKET), dir.join("database")] {
        fs::create_dir_all(&folder).map_err(|error| {
            Failure::new(
                Exit::Config,
                format!(
                    "cannot make {}: {error}. Set dev.dir to a writable directory",
                    folder.display()
                ),
            )
        })?;
    }
    let key = (
        format!("dev{}", random_word()?),
        format!("{}{}", random_word()?, random_word()?),
    );
    let storage = Server::start(storage(config, &key)?, config.dev.s3_port, PATIENCE).await?;
    let database = match mount::find(&config.dev.sqld.to_string_lossy()) {
        None => None,
        Some(program) => Some(Server::start(database(config, &program), config.dev.database_port, PATIENCE).await?),
    };
    Ok(Servers { storage, database, key })
}

/// The key goes through rclone's environment: argv is readable by everyone on the machine.
fn storage(config: &Config, key: &(String, String)) -> Result<Spec, Failure> {
    let home = config.dev.dir.join("home");
    fs::create_dir_all(&home)
        .map_err(|error| Failure::new(Exit::Config, format!("cannot make {}: {error}", home.display())))?;
    let address = format!("127.0.0.1:{}", config.dev.s3_port);
    let mut command: Vec<OsString> = vec![config.mount.rclone.clone().into(), "serve".into(), "s3".into()];
    command.push(config.dev.dir.join("s3").into());
    command.extend(
        [
            "--addr",
            &address,
            "--vfs-cache-mode",
            "off",
            // Not 0: rclone then cleans each directory's cache in an endless loop.
            "--dir-cache-time",
            "100ms",
            "--log-level",
            "NOTICE",
        ]
        .map(OsString::from),
    );
    let mut environment = harmless_environment();
    environment.push(("HOME".into(), home.into()));
    environment.push(("RCLONE_CONFIG".into(), "/dev/null".into()));
    // A list of pairs in CSV: one pair, so the comma inside it is quoted.
    environment.push(("RCLONE_AUTH_KEY".into(), format!("\"{},{}\"", key.0, key.1).into()));
    Ok(Spec {
        name: "s3",
        command,
        environment,
        user: None,
        oom_score_adj: 100,
        directory: None,
        stdin: false,
    })
}

fn database(config: &Config, program: &Path) -> Spec {
    let address = format!("127.0.0.1:{}", config.dev.database_port);
    let mut command: Vec<OsString> = vec![program.into(), "--db-path".into()];
    command.push(config.dev.dir.join("database").into());
    command.extend(["--http-listen-addr", &address, "--no-welcome"].map(OsString::from));
    let mut environment = harmless_environment();
    environment.push(("HOME".into(), config.dev.dir.clone().into()));
    environment.push(("RUST_LOG".into(), "warn".into()));
    Spec {
        name: "sqld",
        command,
        environment,
        user: None,
        oom_score_adj: 100,
        directory: None,
        stdin: false,
    }
}

fn bundle(config: &Config, servers: &Servers) -> Bundle {
    Bundle {
        tenant_id: Some("dev".into()),
        storage: Storage {
            bucket: BUCKET.into(),
            endpoint: format!("http://127.0.0.1:{}", config.dev.s3_port),
            region: "auto".into(),
            access_key_id: SecretString::from(servers.key.0.clone()),
            secret_access_key: SecretString::from(servers.key.1.clone()),
        },
        index: servers.database.is_some().then(|| Index {
            url: format!("http://127.0.0.1:{}", config.dev.database_port),
            auth_token: None,
        }),
        expires_at: None,
    }
}

/// Says where everything is.
fn introduction(config: &Config, database: bool) -> Vec<String> {
    let app = if crate::app::command::is_basic_memory(config) {
        format!(
            "http://127.0.0.1:{}/mcp  (streamable HTTP; point an MCP client here)",
            config.app.port
        )
    } else {
        config.app.command.join(" ")
    };
    let database = if database {
        format!("http://127.0.0.1:{}  (libSQL)", config.dev.database_port)
    } else {
        format!(
            "none: {} is not installed, the index is a local file",
            config.dev.sqld.display()
        )
    };
    let mut health = config.health.listen;
    if health.ip().is_unspecified() {
        health.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    let lines = [
        ("app", app),
        ("health page", format!("http://{health}/")),
        ("files (the mount)", config.mount.path.display().to_string()),
        (
            "bucket folder",
            config.dev.dir.join("s3").join(BUCKET).display().to_string(),
        ),
        (
            "S3 server",
            format!("http://127.0.0.1:{}, bucket {BUCKET}", config.dev.s3_port),
        ),
        ("database", database),
        ("stop", "Ctrl-C; it ends when everything is stored".into()),
    ];
    lines
        .into_iter()
        .map(|(name, value)| format!("{name:<18} {value}"))
        .collect()
}

/// 20 random letters and digits (about 100 bits) from the kernel.
fn random_word() -> Result<String, Failure> {
    let mut bytes = [0u8; 20];
    fs::File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .map_err(|error| Failure::new(Exit::Machine, format!("cannot make a key: /dev/urandom: {error}")))?;
    const LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    Ok(bytes
        .iter()
        .map(|byte| char::from(LETTERS[usize::from(byte % 32)]))
        .collect())
}
