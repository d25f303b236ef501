//! Stands between us and the server, and loses what it is told to lose.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// Forwards; of the answers after the next `let_pass` ones, each is lost and its connection cut.
pub struct Proxy {
    address: SocketAddr,
    passing: Arc<AtomicI64>,
    lost: Arc<AtomicU64>,
}

impl Proxy {
    pub fn to(server: SocketAddr) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let passing = Arc::new(AtomicI64::new(i64::MAX));
        let lost = Arc::new(AtomicU64::new(0));
        let (count, gone) = (passing.clone(), lost.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(server) else {
                    continue;
                };
                let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(Shutdown::Write);
                });
                let (count, gone) = (count.clone(), gone.clone());
                std::thread::spawn(move || answers(server, client, &count, &gone));
            }
        });
        Proxy { address, passing, lost }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The next `answers` answers arrive, those after them do not.
    pub fn let_pass(&self, answers: i64) {
        self.passing.store(answers, Ordering::SeqCst);
    }

    pub fn let_all_pass(&self) {
        self.let_pass(i64::MAX);
    }

    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::SeqCst)
    }
}

/// Answers come whole: headers with a length, or chunks that end with an empty one.
fn answers(mut server: TcpStream, mut client: TcpStream, passing: &AtomicI64, lost: &AtomicU64) {
    let mut answer = Vec::new();
    let mut buffer = [0; 64 * 1024];
    loop {
        match server.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(count) => answer.extend_from_slice(&buffer[..count]),
        }
        if !whole(&answer) {
            continue;
        }
        if passing.fetch_sub(1, Ordering::SeqCst) <= 0 {
            lost.fetch_add(1, Ordering::SeqCst);
            break;
        }
        if client.write_all(&answer).is_err() {
            break;
        }
        answer.clear();
    }
    let _ = client.shutdown(Shutdown::Both);
    let _ = server.shutdown(Shutdown::Both);
}

fn whole(answer: &[u8]) -> bool {
    let Some(end) = answer.windows(4).position(|part| part == b"\r\n\r\n") else {
        return false;
    };
    let headers = String::from_utf8_lossy(&answer[..end]).to_lowercase();
    let length = headers
        .lines()
        .find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
    match length {
        Some(length) => answer.len() >= end + 4 + length,
        None => answer.ends_with(b"0\r\n\r\n"),
    }
}
