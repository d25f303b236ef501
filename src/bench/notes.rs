//! basic-memory's tools: the same calls to the tenant's own and to its twin on local disk, in turns.

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use serde_json::{Value, json};

use super::files::{NOTE, text};
use super::halt::Halt;
use super::mcp::Mcp;
use super::measure::Measure;
use super::sides::{Runner, Samples, Side};
use super::stop::Later;
use crate::app::command;
use crate::config::Config;

/// The two servers. `local` is `None` when there is nothing to compare with.
pub(super) struct Servers {
    pub(super) mount: Mcp,
    pub(super) local: Option<Mcp>,
}

/// Where basic-memory keeps notes that are written without naming a project; `None`: its configuration cannot be read.
pub(super) fn default_project(config: &Config) -> Option<PathBuf> {
    let text = fs::read_to_string(config.app.config_dir.join("config.json")).ok()?;
    let known: Value = serde_json::from_str(&text).ok()?;
    let name = known["default_project"].as_str().unwrap_or("main");
    let entry = &known["projects"][name];
    let path = entry["path"].as_str().or(entry.as_str());
    Some(path.map_or_else(|| command::main_project(config), PathBuf::from))
}

/// `count` rounds of all six tools, in `directory` of the default project. The result says why it ended early, if it did.
pub(super) fn measure(
    runner: &Runner,
    servers: &Servers,
    directory: &str,
    count: usize,
    report: &mut dyn FnMut(Measure, Samples),
) -> Result<Result<(), String>, Halt> {
    const ORDER: [Measure; 6] = [
        Measure::NoteWrite,
        Measure::NoteRead,
        Measure::NoteSearch,
        Measure::NoteEdit,
        Measure::NoteMove,
        Measure::NoteDelete,
    ];
    let mut samples: [Samples; 6] = Default::default();
    let mut failed = Ok(());
    runner.progress.step("basic-memory's tools");
    'rounds: for number in 0..count {
        runner.progress.tick(number, count);
        for side in Side::order(number) {
            let server = match (side, &servers.local) {
                (Side::Mount, _) => &servers.mount,
                (Side::Local, Some(local)) => local,
                (Side::Local, None) => continue,
            };
            for (measure, samples) in ORDER.into_iter().zip(&mut samples) {
                let (tool, arguments, expected) = call(measure, directory, number);
                let begin = Instant::now();
                let answer = runner.stop.wait(server.call(tool, arguments))?;
                let took = begin.elapsed();
                match answer {
                    Ok(text) if text.contains(&expected) => samples.push(side, took),
                    Ok(_) => {
                        failed = Err(format!("{tool} {} answered without {expected:?}", side.name()));
                        break 'rounds;
                    }
                    Err(words) => {
                        failed = Err(format!("{words} ({})", side.name()));
                        break 'rounds;
                    }
                }
            }
        }
    }
    for (measure, samples) in ORDER.into_iter().zip(samples) {
        report(measure, samples);
    }
    Ok(failed)
}

/// Tool, arguments, and what a right answer contains.
fn call(measure: Measure, directory: &str, number: usize) -> (&'static str, Value, String) {
    let (title, word) = (
        format!("Round {number}"),
        format!("word{number}x{}", directory.replace('-', "x")),
    );
    let identifier = format!("{directory}/round-{number}");
    let moved = format!("{directory}/moved/round-{number}");
    match measure {
        Measure::NoteWrite => {
            let mut content = format!("# {title}\nA note about {word}.\n\n- [fact] it was measured #bench\n\n");
            content.push_str(&String::from_utf8_lossy(&text(number, NOTE - content.len())));
            (
                "write_note",
                json!({"title": title, "directory": directory, "content": content}),
                title,
            )
        }
        Measure::NoteRead => ("read_note", json!({"identifier": identifier}), word),
        Measure::NoteSearch => ("search_notes", json!({"query": word}), title),
        Measure::NoteEdit => (
            "edit_note",
            json!({"identifier": identifier, "operation": "append", "content": "\nOne more line."}),
            String::new(),
        ),
        Measure::NoteMove => (
            "move_note",
            json!({"identifier": identifier, "destination_path": format!("{moved}.md")}),
            String::new(),
        ),
        _ => ("delete_note", json!({"identifier": moved}), String::new()),
    }
}

/// Removes everything that was written, from the notes and from the index.
///
/// # Errors
/// In words.
pub(super) fn remove<'a>(server: &'a Mcp, directory: &str) -> Later<'a, Result<(), String>> {
    let arguments = json!({"identifier": directory, "is_directory": true});
    Box::pin(async move {
        match server.call("delete_note", arguments).await {
            // Every round deletes its note: there is only something left when one was cut off.
            Err(words) if words.contains("No Files Found") => Ok(()),
            done => done.map(drop),
        }
    })
}
