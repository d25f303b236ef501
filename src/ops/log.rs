//! The log: one line per event that matters, on **stderr**. Stdout carries only the verdict at exit.
//!
//! Three parts. [`format`](self::format) makes a line of an event, as JSON for machines or as text for people, and frames
//! what children print with their names.
//! [`limit`] holds back storms and says what it held back. [`writer`] hands lines to a thread through a bounded queue, so
//! that a full pipe never stops the supervisor, and says what it had to drop.
//!
//! Events carry a stable name in the field `event` (`tracing::info!(event = "mount_ready", driver, "mounted")`); the
//! words may change, the name does not. Only our own targets are logged below `warn`: at `debug` some libraries print
//! requests with their headers, and secrets must not depend on a log level.

mod format;
mod limit;
mod writer;

pub(super) use writer::write_all;

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::Level;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::{FilterExt as _, Targets};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::{Registry, fmt};

use self::format::{Formatter, Line, Style};
use self::limit::Limiter;
use self::writer::Writer;
use crate::config::{self, LogFormat};
use crate::ops::screen::{self, Screen};

/// Target of what children print; the field `service` names the child. See [`crate::process`].
const CHILD: &str = "child";

/// Target of what rclone prints: its lines have levels of their own. See [`crate::mount`].
const RCLONE: &str = "rclone";

/// At exit the queue gets this long to drain: a reader that does not read must not keep the machine from stopping.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// `log.level` is not a level.
    #[error("log.level is {0:?}; it must be error, warn, info, debug or trace")]
    Level(String),
    /// The writer's thread did not start.
    #[error("cannot start the log's thread: {0}")]
    Thread(#[source] io::Error),
    /// `init` was called twice, a bug.
    #[error("the log is already set up")]
    Twice,
}

/// Keeps the log; dropping it writes what is still queued, for at most one second.
#[derive(Debug)]
#[must_use = "dropping it ends the log"]
pub struct Guard {
    writer: Writer,
    limiter: Arc<Limiter>,
    style: Style,
}

/// Sets up the log for the whole process, on stderr. Also sends panics through the log, one line each. Call it once, and
/// keep the guard until the process ends. `front`: a live line of [`Guard::lines`] shares stderr with it.
///
/// # Errors
/// See [`LogError`].
pub fn init(config: &config::Log, front: bool) -> Result<Guard, LogError> {
    let level = match config.level.as_str() {
        "error" => Level::ERROR,
        "warn" => Level::WARN,
        "info" => Level::INFO,
        "debug" => Level::DEBUG,
        "trace" => Level::TRACE,
        other => return Err(LogError::Level(other.to_owned())),
    };
    let style = match config.format {
        LogFormat::Json => Style::Json,
        LogFormat::Text if colours(&io::stderr()) => Style::Colour,
        LogFormat::Text => Style::Plain,
    };
    let sink: Box<dyn io::Write + Send> = match front {
        true => Box::new(Screen::stderr()),
        false => Box::new(io::stderr()),
    };
    let (guard, subscriber) = build(style, level, sink).map_err(LogError::Thread)?;
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LogError::Twice)?;
    log_panics(&guard);
    Ok(guard)
}

/// May `stream` be coloured? A terminal that can, unless `NO_COLOR` is set to anything but nothing
/// (<https://no-color.org>).
pub fn colours(stream: &impl IsTerminal) -> bool {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    stream.is_terminal() && set("NO_COLOR").is_none() && set("TERM").is_some_and(|term| term != "dumb")
}

/// Puts lines for people between those of the log. Never blocks.
#[derive(Debug, Clone)]
pub struct Lines(Writer);

impl Lines {
    /// The line that changes. Only on a terminal, and only if the log was set up with a front.
    pub fn status(&self, words: &str) {
        self.0.line(screen::status(words));
    }

    /// A line that stays, or several.
    pub fn say(&self, words: &str) {
        self.0.line(screen::said(words));
    }
}

impl Guard {
    /// A way for people's lines.
    #[must_use]
    pub fn lines(&self) -> Lines {
        Lines(self.writer.clone())
    }

    /// Lines dropped since the start because the reader of stderr was too slow.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.writer.dropped()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        for held_back in self.limiter.drain() {
            self.writer.line(held_back.line().render(self.style));
        }
        self.writer.flush(FLUSH_TIMEOUT);
    }
}

/// The subscriber, with a sink of choice for tests.
fn build(
    style: Style,
    level: Level,
    sink: impl io::Write + Send + 'static,
) -> io::Result<(Guard, impl tracing::Subscriber + Send + Sync)> {
    let report = move |dropped: u64| {
        let words = format!("{dropped} lines dropped: the reader of this log was too slow");
        Line::ours(Level::WARN, "log_dropped", words)
            .with("lines", dropped)
            .render(style)
    };
    let writer = Writer::spawn(sink, report)?;
    let limiter = Arc::new(Limiter::new(Instant::now));
    let targets = Targets::new()
        .with_default(level.min(Level::WARN))
        .with_target("tenant_init", level)
        .with_target(RCLONE, level)
        // The level is ours; what the app says is the app's business.
        .with_target(CHILD, LevelFilter::TRACE);
    let layer = fmt::layer()
        .event_format(Formatter::new(style, Arc::clone(&limiter)))
        .with_writer(writer.clone())
        .with_filter(targets.and(limit::Filter(Arc::clone(&limiter))));
    let subscriber = Registry::default().with(layer);
    Ok((Guard { writer, limiter, style }, subscriber))
}

/// A panic is one line of the log instead of several on stderr. Written past `tracing`: the panic may have happened in
/// it. Waits for the line to be out: the process may end right after.
fn log_panics(guard: &Guard) {
    let (writer, style) = (guard.writer.clone(), guard.style);
    std::panic::set_hook(Box::new(move |panic| {
        let payload = panic.payload_as_str().unwrap_or("no message");
        let mut line = Line::ours(Level::ERROR, "panic", format!("a bug in tenant-init: {payload}"));
        if let Some(location) = panic.location() {
            line = line.with("location", location.to_string());
        }
        writer.line(line.render(style));
        writer.flush(FLUSH_TIMEOUT);
    }));
}

#[cfg(test)]
mod tests;
