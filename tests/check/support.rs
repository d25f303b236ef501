//! Real servers with throw-away data, and fake ones that give one canned answer or none.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};
use tempfile::TempDir;
use tenant_init::exit::Exit;

pub const KEY_ID: &str = "AKIDEXAMPLE";
pub const SECRET: &str = "SECRETEXAMPLE";
pub const BUCKET: &str = "notes";

/// A server that is killed and whose folder is removed with this value.
pub struct Server {
    command: Command,
    child: Child,
    pub address: SocketAddr,
    pub dir: TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// As if the machine had lost its power.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Once more, on the same address and folder.
    pub fn restart(&mut self) {
        self.child = Server::spawn(&mut self.command, &self.dir);
        self.wait();
    }

    fn start(mut command: Command, address: SocketAddr, dir: TempDir) -> Server {
        let child = Server::spawn(&mut command, &dir);
        let mut server = Server {
            command,
            child,
            address,
            dir,
        };
        server.wait();
        server
    }

    fn spawn(command: &mut Command, dir: &TempDir) -> Child {
        let log = std::fs::File::create(dir.path().join("server.log")).unwrap();
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"))
    }

    fn wait(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(self.address).is_err() {
            let log = || std::fs::read_to_string(self.dir.path().join("server.log")).unwrap_or_default();
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("{:?} ended with {status}:\n{}", self.command, log());
            }
            assert!(
                Instant::now() < deadline,
                "{:?} does not listen:\n{}",
                self.command,
                log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// `rclone serve s3` with one empty bucket, `BUCKET`.
pub fn s3() -> Server {
    let dir = TempDir::new().unwrap();
    let data = dir.path().join("data");
    std::fs::create_dir_all(data.join(BUCKET)).unwrap();
    let address = free_address();
    let mut command = Command::new(tool("RCLONE", "fetch-rclone.sh"));
    command
        .args(["serve", "s3"])
        .arg(&data)
        .args([
            "--auth-key",
            &format!("{KEY_ID},{SECRET}"),
            "--addr",
            &address.to_string(),
        ])
        .env("RCLONE_CONFIG", "/dev/null");
    Server::start(command, address, dir)
}

/// sqld; with a key (public part, URL-safe base64) it demands a token.
pub fn sqld(public_key: Option<&str>) -> Server {
    let dir = TempDir::new().unwrap();
    let address = free_address();
    let mut command = Command::new(tool("SQLD", "fetch-sqld.sh"));
    command.arg("--db-path").arg(dir.path().join("db"));
    command.args(["--http-listen-addr", &address.to_string()]);
    if let Some(key) = public_key {
        let file = dir.path().join("jwt.key");
        std::fs::write(&file, key).unwrap();
        command.arg("--auth-jwt-key-file").arg(file);
    }
    Server::start(command, address, dir)
}

/// Signs tokens the way Turso does (EdDSA), for sqld's `--auth-jwt-key-file`.
pub struct Issuer(Ed25519KeyPair);

impl Issuer {
    pub fn new() -> Issuer {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Issuer(Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap())
    }

    pub fn public(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0.public_key())
    }

    /// May do everything. `lifetime` in seconds from now.
    pub fn token(&self, lifetime: i64) -> String {
        self.token_for("rw", lifetime)
    }

    /// `access`: `rw` or `ro`.
    pub fn token_for(&self, access: &str, lifetime: i64) -> String {
        let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"EdDSA","typ":"JWT"}"#);
        let expires = jiff::Timestamp::now().as_second() + lifetime;
        let claims = URL_SAFE_NO_PAD.encode(format!(r#"{{"a":"{access}","exp":{expires}}}"#));
        let signature = URL_SAFE_NO_PAD.encode(self.0.sign(format!("{header}.{claims}").as_bytes()));
        format!("{header}.{claims}.{signature}")
    }
}

/// The program that `variable` names, else the one that the project's own script fetches.
pub fn tool(variable: &str, script: &str) -> PathBuf {
    if let Some(path) = std::env::var_os(variable) {
        return path.into();
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts").join(script);
    let output = Command::new(&script)
        .output()
        .unwrap_or_else(|error| panic!("{}: {error}", script.display()));
    assert!(
        output.status.success(),
        "{}: {}",
        script.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap().trim().into()
}

/// An address of this machine that nothing listens on.
pub fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Each way in which no answer comes has words of its own, and the exit code of a fault that may pass. `silent` are those of a server
/// that takes the connection and says nothing; `failure_at` tells how asking at an address failed.
pub async fn no_answer_has_its_words(silent_words: &str, failure_at: impl AsyncFn(SocketAddr) -> (Exit, String)) {
    for (address, words) in [
        (free_address(), "connection refused"),
        (silent(), silent_words),
        (hanging_up(), "closed before an answer"),
    ] {
        let (exit, said) = failure_at(address).await;
        assert_eq!(exit, Exit::Unavailable, "{said}");
        assert!(said.contains(words), "not {words:?}: {said}");
    }
}

/// Answers every request with these bytes.
pub fn answering(answer: impl Into<Vec<u8>>) -> SocketAddr {
    let answer = answer.into();
    serve(move |mut stream| {
        let mut request = [0; 64 * 1024];
        let _ = stream.read(&mut request);
        let _ = stream.write_all(&answer);
    })
}

/// Takes connections and never says a word.
pub fn silent() -> SocketAddr {
    let mut open = Vec::new();
    serve(move |stream| open.push(stream))
}

/// Takes connections and hangs up after the request.
pub fn hanging_up() -> SocketAddr {
    serve(|mut stream| {
        let _ = stream.read(&mut [0; 1024]);
    })
}

fn serve(mut each: impl FnMut(TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || listener.incoming().flatten().for_each(&mut each));
    address
}

/// A socket whose queue is full: the kernel drops further connection requests, as a firewall would.
pub struct Blackhole {
    pub address: SocketAddr,
    _listener: TcpListener,
    _queue: Vec<TcpStream>,
}

pub fn blackhole() -> Blackhole {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut queue = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
        queue.push(stream);
        assert!(queue.len() < 10_000, "the queue of a listening socket does not fill");
    }
    Blackhole {
        address,
        _listener: listener,
        _queue: queue,
    }
}

/// An HTTP/1.1 answer.
pub fn http(status: &str, headers: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n{headers}\r\n{body}",
        body.len()
    )
}

/// An S3 error answer.
pub fn s3_error(status: &str, headers: &str, code: &str) -> String {
    let body =
        format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>{code}, says the test</Message></Error>");
    http(status, &format!("content-type: application/xml\r\n{headers}"), &body)
}

/// The answer to a listing of an empty bucket.
pub fn empty_listing(headers: &str) -> String {
    let body = "<?xml version=\"1.0\"?><ListBucketResult><KeyCount>0</KeyCount><IsTruncated>false</IsTruncated></ListBucketResult>";
    http("200 OK", &format!("content-type: application/xml\r\n{headers}"), body)
}
