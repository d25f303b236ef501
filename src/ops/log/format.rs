//! One event, one line.
//!
//! JSON: `time` (RFC 3339, UTC), `level`, `event`, `message`, the event's own fields, `target`. Text: time of day,
//! level, where from, message, and fields dimmed. Written here because the fields' names are a contract that
//! `tracing-subscriber`'s own JSON format (`timestamp`, upper-case levels) does not keep.

use std::fmt::{self, Write as _};
use std::sync::Arc;

use jiff::Timestamp;
use serde::ser::{SerializeMap as _, Serializer as _};
use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::limit::Limiter;
use super::{CHILD, RCLONE};

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    Json,
    Plain,
    Colour,
}

/// A line before it is text.
#[derive(Debug)]
pub(super) struct Line {
    level: Level,
    target: String,
    event: Option<String>,
    /// The child that printed it.
    child: Option<String>,
    message: String,
    fields: Vec<(String, Value)>,
}

impl Line {
    fn new(level: Level, target: &str) -> Self {
        let (target, message, fields) = (target.to_owned(), String::new(), Vec::new());
        Line {
            level,
            target,
            event: None,
            child: None,
            message,
            fields,
        }
    }

    /// A line of the log about itself.
    pub(super) fn ours(level: Level, event: &str, message: String) -> Self {
        Line {
            event: Some(event.to_owned()),
            message,
            ..Line::new(level, "tenant_init::ops::log")
        }
    }

    /// Adds a field.
    #[must_use]
    pub(super) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.fields.push((name.to_owned(), value.into()));
        self
    }

    fn of(event: &Event<'_>) -> Self {
        let mut line = Line::new(*event.metadata().level(), event.metadata().target());
        event.record(&mut line);
        if line.target == RCLONE {
            line.child = Some(RCLONE.to_owned());
        } else if line.target == CHILD {
            let service = line.fields.iter().position(|(name, _)| name == "service");
            line.child = service.map(|at| text_of(line.fields.remove(at).1));
        }
        line
    }

    /// The line with its newline.
    pub(super) fn render(&self, style: Style) -> Vec<u8> {
        let now = Timestamp::now();
        let mut line = match style {
            Style::Json => self.json(now).unwrap_or_default(),
            Style::Plain => self.text(now, false).into_bytes(),
            Style::Colour => self.text(now, true).into_bytes(),
        };
        line.push(b'\n');
        line
    }

    fn json(&self, now: Timestamp) -> Result<Vec<u8>, serde_json::Error> {
        let mut out = Vec::with_capacity(256);
        let mut serializer = serde_json::Serializer::new(&mut out);
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("time", &now.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string())?;
        map.serialize_entry("level", &self.level.as_str().to_ascii_lowercase())?;
        if let Some(event) = &self.event {
            map.serialize_entry("event", event)?;
        }
        if let Some(child) = &self.child {
            map.serialize_entry("service", child)?;
        }
        map.serialize_entry("message", &self.message)?;
        for (name, value) in &self.fields {
            match name.as_str() {
                // A key that is there twice is read differently by different readers.
                "time" | "level" | "target" => map.serialize_entry(&format!("{name}_"), value)?,
                _ => map.serialize_entry(name, value)?,
            }
        }
        map.serialize_entry("target", &self.target)?;
        map.end()?;
        Ok(out)
    }

    fn text(&self, now: Timestamp, colour: bool) -> String {
        let (dim, reset) = if colour { ("\x1b[2m", "\x1b[0m") } else { ("", "") };
        let tint = match self.level {
            _ if !colour => "",
            Level::ERROR => "\x1b[1;31m",
            Level::WARN => "\x1b[33m",
            Level::INFO => "\x1b[32m",
            _ => "\x1b[36m",
        };
        let mut out = String::with_capacity(160);
        let _ = write!(out, "{dim}{}{reset} ", now.strftime("%H:%M:%S%.3f"));
        if let Some(child) = &self.child {
            let _ = write!(out, "{dim}{:>5} |{reset} ", strip(child));
            if self.level != Level::INFO {
                let _ = write!(out, "{tint}{}{reset} ", self.level.as_str());
            }
            out.push_str(&strip(&self.message));
        } else {
            let _ = write!(out, "{tint}{:>5}{reset} ", self.level.as_str());
            let module = self.target.strip_prefix("tenant_init::").unwrap_or(&self.target);
            let _ = write!(out, "{dim}{module}:{reset} {}", strip(&self.message));
        }
        if let Some(event) = self
            .event
            .as_deref()
            .filter(|_| self.child.is_none() && self.message.is_empty())
        {
            out.push_str(event);
        }
        for (name, value) in &self.fields {
            let _ = match value {
                Value::String(text) if !text.is_empty() && !text.contains([' ', '"', '=']) => {
                    write!(out, " {dim}{name}={}{reset}", strip(text))
                }
                value => write!(out, " {dim}{name}={value}{reset}"),
            };
        }
        out
    }

    fn put(&mut self, name: &str, value: Value) {
        match name {
            "message" => self.message = text_of(value),
            "event" => self.event = Some(text_of(value)),
            // rustc's names for raw identifiers.
            _ => self.fields.push((name.trim_start_matches("r#").to_owned(), value)),
        }
    }
}

fn text_of(value: Value) -> String {
    match value {
        Value::String(text) => text,
        other => other.to_string(),
    }
}

impl Visit for Line {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field.name(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field.name(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field.name(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field.name(), value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field.name(), value.into());
    }

    /// With its sources: the cause is usually what one needs.
    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let mut text = value.to_string();
        let mut source = value.source();
        while let Some(cause) = source {
            let words = cause.to_string();
            if !text.contains(&words) {
                let _ = write!(text, ": {words}");
            }
            source = cause.source();
        }
        self.put(field.name(), text.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field.name(), format!("{value:?}").into());
    }
}

/// The formatter of the subscriber; also the place where what the limiter held back comes out.
#[derive(Debug)]
pub(super) struct Formatter {
    style: Style,
    limiter: Arc<Limiter>,
}

impl Formatter {
    pub(super) fn new(style: Style, limiter: Arc<Limiter>) -> Self {
        Formatter { style, limiter }
    }
}

impl<S, N> FormatEvent<S, N> for Formatter
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let held_back = self.limiter.due().into_iter().map(|held_back| held_back.line());
        for line in held_back.chain([Line::of(event)]) {
            out.write_str(&String::from_utf8_lossy(&line.render(self.style)))?;
        }
        Ok(())
    }
}

/// Takes out terminal escape sequences (ECMA-48: CSI and OSC) and all control characters but tabs, so that text from
/// elsewhere stays on its line and cannot steer a terminal.
pub(super) fn strip(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\x1b' => match rest.next_if(|&next| next == '[' || next == ']') {
                Some('[') => while rest.next().is_some_and(|c| !('@'..='~').contains(&c)) {},
                Some(_) => while rest.next().is_some_and(|c| c != '\x07' && c != '\x1b') {},
                None => {}
            },
            '\t' => out.push(c),
            c if c.is_control() => {}
            c => out.push(c),
        }
    }
    out.truncate(out.trim_end().len());
    out
}
