//! Values on their way between the outbox's JSON, SQLite and Hrana.

use libsql_hrana::proto::Value;

/// A text value.
pub(super) fn text(value: impl AsRef<str>) -> Value {
    Value::Text {
        value: value.as_ref().into(),
    }
}

/// An integer value; positions and epochs are far from the limit.
pub(super) fn number(value: u64) -> Value {
    Value::Integer {
        value: i64::try_from(value).unwrap_or(i64::MAX),
    }
}

/// The integer of a value, if it is one.
pub(super) fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::Integer { value } => Some(*value),
        _ => None,
    }
}

/// The integer of a value, if it is one and not negative.
pub(super) fn count(value: &Value) -> Option<u64> {
    integer(value).and_then(|value| value.try_into().ok())
}

/// The text of a value, if it is one.
pub(super) fn text_of(value: &Value) -> Option<&str> {
    match value {
        Value::Text { value } => Some(value),
        _ => None,
    }
}
