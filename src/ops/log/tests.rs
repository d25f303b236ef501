use std::io::Write;
use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};

use serde_json::Value;

use super::*;

/// A sink one can read, and one that blocks until told to go on.
#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Sink {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Stuck {
    gate: Option<std::sync::mpsc::Receiver<()>>,
    sink: Sink,
}

impl Stuck {
    fn new(sink: &Sink) -> (Self, Sender<()>) {
        let (open, gate) = channel();
        (
            Stuck {
                gate: Some(gate),
                sink: sink.clone(),
            },
            open,
        )
    }
}

impl Write for Stuck {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(gate) = self.gate.take() {
            let _ = gate.recv();
        }
        self.sink.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Runs `body` with a log of its own and returns what it wrote.
fn logged(style: Style, level: Level, body: impl FnOnce()) -> String {
    let sink = Sink::default();
    let (guard, subscriber) = build(style, level, sink.clone()).unwrap();
    tracing::subscriber::with_default(subscriber, body);
    drop(guard);
    sink.text()
}

fn json(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect()
}

const OURS: &str = "tenant_init::mount";

/// As [`crate::process`] logs what a child printed.
fn child(service: &str, line: &str) {
    tracing::info!(target: "child", event = "output", service, "{line}");
}

#[test]
fn json_lines_have_the_documented_fields() {
    let text = logged(Style::Json, Level::INFO, || {
        let error = io::Error::other(LogError::Level("x".into()));
        tracing::info!(target: OURS, event = "mount_ready", driver = "nfs", port = 9180, took = 0.25, ok = true, "mounted {}", "/data");
        tracing::error!(target: OURS, event = "mount_failed", error = &error as &dyn std::error::Error, level = "mine", "two\nlines");
    });
    let lines = json(&text);
    let line = lines[0].as_object().unwrap();
    assert_eq!(line["level"], "info");
    assert_eq!(line["event"], "mount_ready");
    assert_eq!(line["message"], "mounted /data");
    assert_eq!(
        (&line["driver"], &line["port"], &line["ok"]),
        (&"nfs".into(), &9180.into(), &true.into())
    );
    assert_eq!(line["target"], OURS);
    let time = line["time"].as_str().unwrap();
    assert!(time.ends_with('Z') && time.parse::<jiff::Timestamp>().is_ok(), "{time}");
    assert_eq!(lines[1]["level"], "error");
    assert_eq!(lines[1]["level_"], "mine");
    assert_eq!(lines[1]["message"], "two\nlines");
    assert!(lines[1]["error"].as_str().unwrap().contains("log.level"));
    assert_eq!(lines.len(), 2);
}

#[test]
fn text_lines_are_for_people() {
    let say = || {
        tracing::warn!(target: OURS, event = "slow", path = "/a b", n = 3, "it is slow");
        child("rclone", "\x1b[31mERROR\x1b[0m : out\x07 of space\r\n");
    };
    let plain = logged(Style::Plain, Level::INFO, say);
    let lines: Vec<&str> = plain.lines().collect();
    assert!(
        lines[0].ends_with(" WARN mount: it is slow path=\"/a b\" n=3"),
        "{plain}"
    );
    assert!(lines[1].ends_with("rclone | ERROR : out of space"), "{plain}");
    assert!(!plain.contains('\x1b'));
    assert!(logged(Style::Colour, Level::INFO, say).contains("\x1b[33m WARN"));
}

#[test]
fn levels_apply_to_us_and_libraries_are_quieter() {
    let text = logged(Style::Json, Level::DEBUG, || {
        tracing::debug!(target: OURS, "ours");
        tracing::debug!(target: "aws_sigv4", "authorization: secret");
        tracing::info!(target: "hyper", "theirs");
        tracing::warn!(target: "hyper", "their warning");
    });
    let messages: Vec<_> = json(&text)
        .iter()
        .map(|line| line["message"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(messages, ["ours", "their warning"]);
    let text = logged(Style::Json, Level::ERROR, || {
        tracing::warn!(target: OURS, "ours");
        tracing::warn!(target: "hyper", "theirs");
        child("basic-memory", "hello");
    });
    assert_eq!(json(&text).len(), 1, "the level is ours, children keep theirs: {text}");
}

#[test]
fn childrens_lines_are_framed_with_their_names() {
    let say = || {
        child("app", "r\u{e9}sum\u{e9}\tx");
        tracing::warn!(target: "rclone", object = Some("a.md"), "upload failed");
        tracing::warn!(target: OURS, event = "service_restart", service = "mount", "again");
    };
    let lines = json(&logged(Style::Json, Level::INFO, say));
    assert_eq!(
        (&lines[0]["event"], &lines[0]["service"]),
        (&"output".into(), &"app".into())
    );
    assert_eq!(lines[0]["message"], "r\u{e9}sum\u{e9}\tx");
    assert_eq!(
        (&lines[1]["service"], &lines[1]["object"]),
        (&"rclone".into(), &"a.md".into())
    );
    assert_eq!(
        (&lines[2]["service"], &lines[2]["target"]),
        (&"mount".into(), &OURS.into())
    );
    let text = logged(Style::Plain, Level::INFO, say);
    let endings = [
        "  app | r\u{e9}sum\u{e9}\tx",
        "rclone | WARN upload failed object=a.md",
        " WARN mount: again service=mount",
    ];
    for (line, ending) in text.lines().zip(endings) {
        assert!(line.ends_with(ending), "{text}");
    }
}

#[test]
fn text_from_elsewhere_cannot_steer_a_terminal() {
    assert_eq!(
        format::strip("\x1b[31mERROR\x1b[0m : out\x07 of space\r\n"),
        "ERROR : out of space"
    );
    assert_eq!(format::strip("\x1b]0;title\x07 end\x1b[2K"), " end");
    assert_eq!(format::strip("a\tb\u{9b}2J\x1b"), "a\tb2J");
}

#[test]
fn a_storm_is_cut_and_said() {
    let text = logged(Style::Json, Level::INFO, || {
        for n in 0..5000 {
            tracing::warn!(target: OURS, event = "storm", n, "again {n}");
        }
        tracing::info!(target: OURS, event = "other", "something else");
        for _ in 0..3000 {
            child("noisy", "blah");
        }
        child("quiet", "hello");
    });
    let lines = json(&text);
    let of = |event: &str| lines.iter().filter(|line| line["event"] == event).count();
    assert!((100..200).contains(&of("storm")), "{}", of("storm"));
    assert_eq!(of("other"), 1);
    assert!(lines.iter().any(|line| line["service"] == "quiet"));
    let held: Vec<_> = lines.iter().filter(|line| line["event"] == "log_limited").collect();
    let of_storm: u64 = held
        .iter()
        .filter(|l| l["of"].as_str().unwrap().contains("mount"))
        .map(|l| l["lines"].as_u64().unwrap())
        .sum();
    assert_eq!(of_storm as usize + of("storm"), 5000, "each line is written or counted");
    assert!(held.iter().any(|line| line["of"] == "the output of noisy"), "{held:?}");
}

#[test]
fn a_full_pipe_never_blocks_and_what_is_lost_is_said() {
    let sink = Sink::default();
    let (stuck, open) = Stuck::new(&sink);
    let report = |n: u64| format!("{n} lines dropped\n").into_bytes();
    let writer = Writer::spawn(stuck, report).unwrap();
    let started = Instant::now();
    for n in 0..50_000 {
        writer.line(format!("line {n}\n").into_bytes());
    }
    assert!(started.elapsed() < Duration::from_secs(5), "the producer waited");
    let dropped = writer.dropped();
    assert!(dropped > 40_000, "{dropped}");
    open.send(()).unwrap();
    writer.flush(Duration::from_secs(10));
    let text = sink.text();
    let lines = text.lines().filter(|line| line.starts_with("line ")).count() as u64;
    assert_eq!(lines + dropped, 50_000);
    let said: u64 = text
        .lines()
        .filter_map(|line| line.strip_suffix(" lines dropped")?.parse::<u64>().ok())
        .sum();
    assert_eq!(said, dropped);
}

#[test]
fn the_queue_is_bounded_in_bytes_too() {
    let sink = Sink::default();
    let (stuck, open) = Stuck::new(&sink);
    let writer = Writer::spawn(stuck, |_| Vec::new()).unwrap();
    for _ in 0..200 {
        writer.line(vec![b'x'; 16 * 1024]);
    }
    assert!(
        (130..=140).contains(&writer.dropped()),
        "1 MiB holds 64 lines of 16 KiB, not 200: {}",
        writer.dropped()
    );
    open.send(()).unwrap();
    writer.flush(Duration::from_secs(10));
}

#[test]
fn flushing_gives_up_when_nobody_reads() {
    let (stuck, open) = Stuck::new(&Sink::default());
    let writer = Writer::spawn(stuck, |_| Vec::new()).unwrap();
    writer.line(b"x\n".to_vec());
    let started = Instant::now();
    writer.flush(Duration::from_millis(50));
    assert!(started.elapsed() < Duration::from_secs(5));
    drop(open);
}

#[test]
fn a_level_must_be_a_level() {
    for wrong in ["", "verbose", "INFO", "5", "info,hyper=trace"] {
        let config = config::Log {
            format: LogFormat::Json,
            level: wrong.into(),
        };
        assert!(matches!(init(&config, false), Err(LogError::Level(_))), "{wrong:?}");
    }
}
