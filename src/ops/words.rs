//! Numbers, sizes and times as people read them, on the page and in a terminal.

use jiff::Timestamp;

/// `1 234 567`, with thin spaces.
pub fn number(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::with_capacity(digits.len() * 2);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

/// `1 restart`, `2 restarts`.
pub fn count(value: u64, one: &str, many: &str) -> String {
    format!("{} {}", number(value), if value == 1 { one } else { many })
}

/// `5.4 MB`, decimal units.
#[allow(clippy::cast_precision_loss, reason = "three digits are shown")]
pub fn bytes(value: u64) -> String {
    let mut scaled = value as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        // 999.95 would be shown as 1000.0.
        if scaled < 999.95 {
            let decimals = usize::from(unit != "B" && scaled < 99.95);
            return format!("{scaled:.decimals$} {unit}");
        }
        scaled /= 1000.0;
    }
    format!("{scaled:.1} TB")
}

/// `0.18 ms`, `12 ms`, `1.2 s`.
pub fn milliseconds(value: f64) -> String {
    match value {
        v if v < 0.9995 => format!("{v:.2} ms"),
        v if v < 9.95 => format!("{v:.1} ms"),
        v if v < 999.5 => format!("{v:.0} ms"),
        v => format!("{:.1} s", v / 1000.0),
    }
}

/// `13 s`, `1 min 13 s`, `3 h 12 min`, `2 d 4 h`.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped; a saturating cast is meant"
)]
pub fn seconds(value: f64) -> String {
    let total = value.max(0.0) as u64;
    let (days, hours, minutes, seconds) = (total / 86_400, total / 3600 % 24, total / 60 % 60, total % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {seconds} s"),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

/// Time from `then` to `now`, 0 when the clocks disagree.
pub fn elapsed_since(then: Timestamp, now: Timestamp) -> String {
    seconds(now.duration_since(then).as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_well() {
        assert_eq!(
            [0, 999, 1000, 1_234_567].map(number),
            ["0", "999", "1\u{202f}000", "1\u{202f}234\u{202f}567"]
        );
        assert_eq!(
            [1, 2].map(|n| count(n, "restart", "restarts")),
            ["1 restart", "2 restarts"]
        );
        assert_eq!(
            [0, 999, 1000, 5_400_000, 99_960_000, 999_960_000, u64::MAX].map(bytes),
            ["0 B", "999 B", "1.0 kB", "5.4 MB", "100 MB", "1.0 GB", "18446744.1 TB"]
        );
        assert_eq!(
            [0.004, 0.18, 0.9996, 2.44, 11.9, 999.6, 61_000.0].map(milliseconds),
            ["0.00 ms", "0.18 ms", "1.0 ms", "2.4 ms", "12 ms", "1.0 s", "61.0 s"]
        );
        assert_eq!(
            [-1.0, 13.9, 73.4, 11_520.0, 187_200.0, f64::INFINITY].map(seconds)[..5],
            ["0 s", "13 s", "1 min 13 s", "3 h 12 min", "2 d 4 h"]
        );
    }
}
