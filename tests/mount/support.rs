//! A world for one test: a bucket on this machine, a mountpoint, a cache, and the end of all of it when the test is over.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tenant_init::config::{DriverChoice, Mount};
use tenant_init::credentials::Storage;
use tenant_init::mount::guard::Observer;
use tenant_init::mount::{Claim, Driver, MountError, NotReady, Plan, Prober, Session};
use tokio::time::Instant;

pub const BUCKET: &str = "notes";
const KEY: &str = "AKIDEXAMPLE";
const SECRET: &str = "SECRETEXAMPLE";

/// Long enough for a loaded machine; a test that waits this long fails.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub struct World {
    dir: TempDir,
    s3: Option<Child>,
    port: u16,
    pub mount: Mount,
}

impl World {
    /// A world whose bucket answers.
    pub fn new() -> World {
        let mut world = World::without_storage();
        world.start_storage();
        world
    }

    /// A world whose endpoint refuses connections.
    pub fn without_storage() -> World {
        let dir = tempfile::Builder::new().prefix("tenant-mount-").tempdir().unwrap();
        fs::create_dir_all(dir.path().join("s3").join(BUCKET)).unwrap();
        let at = |name: &str| dir.path().join(name);
        let mount = Mount {
            path: at("data"),
            driver: DriverChoice::Fuse,
            cache_dir: at("cache"),
            run_dir: at("run"),
            write_back: Duration::from_secs(1),
            cache_max_bytes: 1 << 30,
            cache_min_free_bytes: 1 << 20,
            attribute_timeout: Duration::from_secs(30),
            refresh_interval: Duration::from_secs(300),
            nconnect: 4,
            transfers: 8,
            rclone: rclone(),
            local: None,
        };
        World {
            port: free_port(),
            dir,
            s3: None,
            mount,
        }
    }

    pub fn start_storage(&mut self) {
        let child = Command::new(rclone())
            .args([
                "serve",
                "s3",
                "--vfs-cache-mode",
                "off",
                "--dir-cache-time",
                "5ms",
                "--auth-key",
            ])
            .arg(format!("{KEY},{SECRET}"))
            .args(["--addr", &format!("127.0.0.1:{}", self.port)])
            .arg(self.dir.path().join("s3"))
            .env_remove("RCLONE_CONFIG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.s3 = Some(child);
        wait("the S3 server listens", || {
            TcpStream::connect(("127.0.0.1", self.port)).is_ok()
        });
    }

    pub fn stop_storage(&mut self) {
        if let Some(mut child) = self.s3.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// The endpoint as something else serves it, or nothing.
    pub fn use_port(&mut self, port: u16) {
        self.port = port;
    }

    pub fn path(&self) -> &Path {
        &self.mount.path
    }

    pub fn storage(&self) -> Storage {
        Storage {
            bucket: BUCKET.into(),
            endpoint: format!("http://127.0.0.1:{}", self.port),
            region: "auto".into(),
            access_key_id: KEY.into(),
            secret_access_key: SECRET.into(),
        }
    }

    pub async fn claim(&self) -> Result<Claim, MountError> {
        let prober = Prober::new(env!("CARGO_BIN_EXE_tenant-init").into());
        Claim::take(&self.mount, Arc::new(prober)).await
    }

    pub async fn launch_with(&self, claim: &Claim, storage: Storage) -> Session {
        let mount = self.mount.clone();
        let plan = Plan {
            mount,
            storage,
            driver: Driver::Fuse,
            uid: 1000,
            gid: 1000,
            ledger: tenant_init::mount::Ledger::default(),
            oom_score_adj: Some(100),
            observer: Arc::new(Unobserved),
        };
        Session::launch(claim, plan).await.unwrap()
    }

    pub async fn launch(&self, claim: &Claim) -> Session {
        self.launch_with(claim, self.storage()).await
    }

    /// A mount that is ready.
    pub async fn up(&self) -> (Claim, Session) {
        let claim = self.claim().await.unwrap();
        let session = self.launch(&claim).await;
        session.ready(async { true }, Instant::now() + PATIENCE).await.unwrap();
        (claim, session)
    }

    /// Why a mount with these credentials does not get ready within `limit`.
    pub async fn refusal(&self, storage: Storage, limit: Duration) -> NotReady {
        let claim = self.claim().await.unwrap();
        let session = self.launch_with(&claim, storage).await;
        let refusal = session.ready(async { true }, Instant::now() + limit).await.unwrap_err();
        session.unmount(PATIENCE).await.unwrap();
        session.terminate(PATIENCE).await;
        claim.release().await.unwrap();
        assert_eq!(mounts(self.path()), 0);
        refusal
    }

    /// The tenant's objects and their content, sorted; without what a slow self-test may have left for a moment.
    pub fn objects(&self) -> Vec<(String, String)> {
        let root = self.dir.path().join("s3").join(BUCKET);
        let mut found = Vec::new();
        let mut directories = vec![root.clone()];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    directories.push(path);
                } else {
                    let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
                    found.push((name, fs::read_to_string(&path).unwrap()));
                }
            }
        }
        found.retain(|(name, _)| !name.starts_with(".tenant-init/"));
        found.sort();
        found
    }

    /// An object that somebody else put there.
    pub fn put(&self, name: &str, content: &str) {
        fs::write(self.dir.path().join("s3").join(BUCKET).join(name), content).unwrap();
    }

    pub fn temporary(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// On FUSE there is nothing to observe.
struct Unobserved;

impl Observer for Unobserved {
    fn operation(&self, _name: &'static str, _elapsed: Duration, _error: Option<&'static str>) {}
}

impl Drop for World {
    fn drop(&mut self) {
        let run = |program: &str, arguments: &[&str]| {
            let mut command = Command::new(program);
            command
                .args(arguments)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            command.status().is_ok_and(|status| status.success())
        };
        if let Ok(pid) = fs::read_to_string(self.mount.cache_dir.join("mounter.pid")) {
            let ours = fs::read_to_string(format!("/proc/{pid}/cmdline"));
            if ours.is_ok_and(|line| line.contains(self.mount.cache_dir.to_str().unwrap())) {
                run("kill", &["-KILL", &pid]);
            }
        }
        while mounts(self.path()) > 0 && run("umount", &["-l", self.path().to_str().unwrap()]) {}
        self.stop_storage();
    }
}

/// How many mounts are on a path.
pub fn mounts(path: &Path) -> usize {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    table
        .lines()
        .filter(|line| line.split(' ').nth(4) == path.to_str())
        .count()
}

pub fn wait(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while !condition() {
        assert!(std::time::Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0))
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// The rclone under test: `RCLONE`, else the one `scripts/fetch-rclone.sh` keeps.
fn rclone() -> PathBuf {
    if let Some(path) = std::env::var_os("RCLONE") {
        return path.into();
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/fetch-rclone.sh");
    let output = Command::new(script)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(output.status.success(), "no rclone: set RCLONE");
    String::from_utf8(output.stdout).unwrap().trim().into()
}
