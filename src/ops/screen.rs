//! One line at the bottom of a terminal that changes, and the log above it.
//!
//! Both come through the log's one thread, in order, so neither breaks into the other, and a terminal that takes nothing (^S)
//! stops only that thread. A message that begins with a carriage return is the line; anything else stays.

use std::io::{self, IsTerminal, Write};

use crate::ops::log::write_all;

/// Erase the line; wrapping off, because a line that wraps cannot be erased; wrapping on.
const ERASE: &[u8] = b"\r\x1b[K";
const CUT: &[u8] = b"\x1b[?7l";
const WRAP: &[u8] = b"\x1b[?7h";

/// Where the log's thread writes to when there is such a line.
#[derive(Debug)]
pub(super) struct Screen<W> {
    sink: W,
    line: Vec<u8>,
}

impl Screen<io::Stderr> {
    pub(super) fn stderr() -> Self {
        Screen::new(io::stderr())
    }
}

impl<W: Write> Screen<W> {
    fn new(sink: W) -> Self {
        Screen { sink, line: Vec::new() }
    }
}

/// Can stderr show a line that changes?
#[must_use]
pub fn is_live() -> bool {
    io::stderr().is_terminal() && std::env::var_os("TERM").is_some_and(|term| !term.is_empty() && term != "dumb")
}

/// The message that makes `words` the line; nothing takes it away.
pub(super) fn status(words: &str) -> Vec<u8> {
    // A name of a file may hold anything, and this goes to a terminal.
    let plain = words.chars().filter(|letter| !letter.is_control());
    std::iter::once('\r').chain(plain).collect::<String>().into_bytes()
}

/// The message for `words` that stay.
pub(super) fn said(words: &str) -> Vec<u8> {
    let plain = words.chars().filter(|letter| !letter.is_control() || *letter == '\n');
    plain.chain(['\n']).collect::<String>().into_bytes()
}

impl<W: Write> Write for Screen<W> {
    fn write(&mut self, message: &[u8]) -> io::Result<usize> {
        let mut out = Vec::with_capacity(message.len() + self.line.len() + 32);
        if !self.line.is_empty() {
            out.extend_from_slice(ERASE);
        }
        match message.split_first() {
            Some((b'\r', words)) => self.line = words.to_vec(),
            _ => out.extend_from_slice(message),
        }
        if !self.line.is_empty() {
            for part in [CUT, &self.line, WRAP] {
                out.extend_from_slice(part);
            }
        }
        // Whole: a message that was written in part must not be written once more.
        write_all(&mut self.sink, &out);
        self.sink.flush()?;
        Ok(message.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_line_stands_above_the_line_that_changes() {
        let mut screen = Screen::new(Vec::new());
        for message in [
            status("one"),
            b"log\n".to_vec(),
            status("two"),
            status(""),
            b"end\n".to_vec(),
        ] {
            screen.write_all(&message).unwrap();
        }
        let shown = String::from_utf8(screen.sink).unwrap();
        let shown = shown
            .replace("\r\x1b[K", "<")
            .replace("\x1b[?7l", "[")
            .replace("\x1b[?7h", "]");
        assert_eq!(shown, "[one]<log\n[one]<[two]<end\n");
    }

    /// Takes three bytes at a time, and nothing every other time.
    #[derive(Default)]
    struct Slow(Vec<u8>, bool);

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1 = !self.1;
            if self.1 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let taken = bytes.len().min(3);
            self.0.extend_from_slice(&bytes[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_terminal_that_takes_a_part_gets_the_rest_and_nothing_twice() {
        let mut screen = Screen::new(Slow::default());
        write_all(&mut screen, b"a whole line\n");
        assert_eq!(screen.sink.0, b"a whole line\n");
    }

    #[test]
    fn nothing_in_a_name_reaches_the_terminal_as_a_command() {
        assert_eq!(status("a\x1b[2Jb\n"), b"\ra[2Jb");
        assert_eq!(said("a\r\x1b[2Jb\nc"), b"a[2Jb\nc\n");
    }
}
