//! A child's output, line by line into our log, in bounded memory.

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};

/// A longer line is cut into pieces of this many bytes.
const LONGEST: usize = 8 * 1024;

/// Reads until end of file; each line becomes one log event of the service `name`.
pub async fn log(name: &'static str, stream: impl AsyncRead + Unpin) {
    each(
        stream,
        |line| tracing::info!(target: "child", event = "output", service = name, "{line}"),
    )
    .await;
}

/// Calls `sink` with every line, without its end. Invalid UTF-8 is replaced, terminal control sequences are removed.
pub async fn each(stream: impl AsyncRead + Unpin, mut sink: impl FnMut(&str)) {
    let mut reader = BufReader::with_capacity(LONGEST, stream);
    let mut line: Vec<u8> = Vec::new();
    loop {
        let chunk = match reader.fill_buf().await {
            Ok([]) | Err(_) => break,
            Ok(chunk) => chunk,
        };
        let end = chunk.iter().position(|b| *b == b'\n');
        let take = end.map_or(chunk.len(), |at| at + 1).min(LONGEST - line.len());
        line.extend_from_slice(&chunk[..take]);
        reader.consume(take);
        if line.last() == Some(&b'\n') || line.len() >= LONGEST {
            emit(&line, &mut sink);
            line.clear();
        }
    }
    emit(&line, &mut sink);
}

fn emit(line: &[u8], sink: &mut impl FnMut(&str)) {
    let text = printable(&String::from_utf8_lossy(line));
    if !text.is_empty() {
        sink(&text);
    }
}

/// Without ANSI sequences (ECMA-48 CSI) and other control characters: a child must not be able to paint our log.
fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.trim_end().chars().peekable();
    while let Some(c) = chars.next() {
        if c == '\u{1b}' {
            if chars.next_if_eq(&'[').is_some() {
                while chars.next().is_some_and(|c| !('@'..='~').contains(&c)) {}
            }
        } else if c == '\t' || !c.is_control() {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn lines_of(bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        each(bytes, |line| lines.push(line.to_owned())).await;
        lines
    }

    #[tokio::test]
    async fn lines_are_split_cleaned_and_bounded() {
        assert_eq!(lines_of(b"a\nb\r\n\nlast").await, ["a", "b", "last"]);
        assert_eq!(lines_of(b"\x1b[32mINFO\x1b[0m: up\x07\n").await, ["INFO: up"]);
        let long = vec![b'x'; LONGEST * 2 + 5];
        let lines = lines_of(&long).await;
        assert_eq!(lines.iter().map(String::len).collect::<Vec<_>>(), [LONGEST, LONGEST, 5]);
    }
}
