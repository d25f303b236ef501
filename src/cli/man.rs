//! The man page, made from the definition of the command line: one page for all commands, so that what `--help` says and
//! what the page says cannot differ.

use std::io::{self, Write};

use clap::Command;
use clap_mangen::Man;

/// Writes `tenant-init(1)` as roff. `exit_codes` is the text below `--help`: a headline and a table that keeps its lines.
pub(super) fn write(mut command: Command, exit_codes: &str, out: &mut dyn Write) -> io::Result<()> {
    command.build();
    let page = Man::new(command.clone()).manual("tenant-init");
    page.render_title(out)?;
    page.render_name_section(out)?;
    page.render_synopsis_section(out)?;
    page.render_description_section(out)?;
    writeln!(out, ".SH COMMANDS")?;
    for sub in command.get_subcommands().filter(|sub| shown(sub)) {
        let about = sub.get_about().map(ToString::to_string).unwrap_or_default();
        writeln!(out, ".TP\n\\fB{}\\fR\n{}", escaped(sub.get_name()), escaped(&about))?;
    }
    page.render_options_section(out)?;
    for sub in command.get_subcommands().filter(|sub| shown(sub)) {
        let name = sub.get_bin_name().unwrap_or_else(|| sub.get_name());
        writeln!(out, ".SH {}", escaped(&name.to_uppercase()))?;
        let part = Man::new(sub.clone());
        let mut text = Vec::new();
        part.render_description_section(&mut text)?;
        part.render_synopsis_section(&mut text)?;
        part.render_options_section(&mut text)?;
        out.write_all(&below(&text))?;
    }
    writeln!(out, ".SH EXIT STATUS\n.nf")?;
    for line in exit_codes.lines().skip(1) {
        writeln!(out, "{}", escaped(line.trim_start()))?;
    }
    writeln!(out, ".fi")?;
    writeln!(out, ".SH FILES\n.TP\n\\fI/etc/tenant\\-init.toml\\fR")?;
    writeln!(
        out,
        "The configuration. Each key can also be given in the environment, as TENANT_INIT_SECTION__KEY."
    )
}

/// `help` is clap's own; hidden commands are started by tenant-init itself.
fn shown(sub: &Command) -> bool {
    !sub.is_hide_set() && sub.get_name() != "help"
}

/// The sections of a command's own page as parts of its section here; preprocessor lines are only for the top of a page.
fn below(text: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(text);
    let lines = text
        .lines()
        .filter(|line| !line.starts_with(".ie") && !line.starts_with(".el"));
    let mut out: String = lines
        .map(|line| {
            line.strip_prefix(".SH ")
                .map_or_else(|| line.to_owned(), |title| format!(".SS {title}"))
        })
        .collect::<Vec<_>>()
        .join("\n");
    out.push('\n');
    out.into_bytes()
}

/// Plain text for roff: no escapes, no requests at the start of a line, hyphens that can be copied.
fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    if text.starts_with(['.', '\'']) {
        format!("\\&{text}")
    } else {
        text
    }
}
