//! Messages of the guardian: one line on stderr (or stdout), without allocating and without ever blocking for long.
//!
//! The guardian is PID 1: if it hung on a full pipe whose reader is gone to sleep, nothing would be reaped or stopped.
//! So a line is formatted into a fixed buffer, and written only if the descriptor takes it within a second.

use std::fmt::{self, Write};
use std::os::fd::BorrowedFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Longest line, terminator included. Below `PIPE_BUF` (4096, pipe(7)), so a line is never torn.
const LINE: usize = 1024;

/// How long a reader may keep us waiting, in milliseconds.
const PATIENCE_MS: u16 = 1000;

/// A line being built; what does not fit is cut off.
struct Line {
    bytes: [u8; LINE],
    len: usize,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // One byte stays free for the newline.
        let room = LINE - 1 - self.len;
        let take = text.len().min(room);
        self.bytes[self.len..self.len + take].copy_from_slice(&text.as_bytes()[..take]);
        self.len += take;
        Ok(())
    }
}

/// Writes `tenant-init: <message>` and a newline to stderr.
pub(super) fn stderr(message: fmt::Arguments<'_>) {
    line(std::io::stderr(), format_args!("tenant-init: {message}"));
}

/// Writes `message` and a newline to stdout.
pub(super) fn stdout(message: fmt::Arguments<'_>) {
    line(std::io::stdout(), message);
}

fn line(to: impl std::os::fd::AsFd, message: fmt::Arguments<'_>) {
    let mut line = Line {
        bytes: [0; LINE],
        len: 0,
    };
    // `Line` never reports an error; a Display that does leaves a shorter line.
    let _ = line.write_fmt(message);
    line.bytes[line.len] = b'\n';
    let text = &line.bytes[..=line.len];
    let fd: BorrowedFd<'_> = to.as_fd();
    if poll(
        &mut [PollFd::new(fd, PollFlags::POLLOUT)],
        PollTimeout::from(PATIENCE_MS),
    ) == Ok(1)
    {
        // Nobody is left to tell when this fails.
        let _ = nix::unistd::write(fd, text);
    }
}
