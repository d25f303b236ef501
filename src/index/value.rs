//! Values on their way between the outbox's JSON, SQLite and Hrana.
//!
//! SQLite can hold what JSON, and so Hrana, cannot carry: infinite numbers, and texts that are not UTF-8. In statements
//! of our own (`bound`) those become an expression that makes the value on the other side. In recorded statements they
//! are an error that seeding the database gets around.

use std::fmt;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use libsql_hrana::proto::{NamedArg, Stmt, Value};
use rusqlite::types::{Value as Local, ValueRef};
use serde_json::Value as Json;

/// Base64 with or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A text value.
pub(super) fn text(value: impl AsRef<str>) -> Value {
    Value::Text {
        value: value.as_ref().into(),
    }
}

/// An integer value; positions and epochs are far from the limit.
pub(super) fn number(value: u64) -> Value {
    int(i64::try_from(value).unwrap_or(i64::MAX))
}

/// An integer value.
pub(super) fn int(value: i64) -> Value {
    Value::Integer { value }
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

/// For SQLite.
pub(super) fn local(value: &Value) -> Local {
    match value {
        Value::None | Value::Null => Local::Null,
        Value::Integer { value } => Local::Integer(*value),
        Value::Float { value } => Local::Real(*value),
        Value::Text { value } => Local::Text(value.to_string()),
        Value::Blob { value } => Local::Blob(value.to_vec()),
    }
}

/// Bytes that a value takes in a request, roughly.
pub(super) fn size(value: ValueRef<'_>) -> usize {
    match value {
        ValueRef::Null | ValueRef::Integer(_) | ValueRef::Real(_) => 24,
        ValueRef::Text(text) => 24 + text.len(),
        ValueRef::Blob(blob) => 24 + blob.len() / 3 * 4,
    }
}

/// An SQL expression for a value of the local file, and what has to be bound for its `?`.
pub(super) fn bound(value: ValueRef<'_>) -> (&'static str, Option<Value>) {
    let value = match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(value) => Value::Integer { value },
        ValueRef::Real(value) if value == f64::INFINITY => return ("9e999", None),
        ValueRef::Real(value) if value == f64::NEG_INFINITY => return ("-9e999", None),
        ValueRef::Real(value) => Value::Float { value },
        ValueRef::Text(bytes) => match std::str::from_utf8(bytes) {
            Ok(value) => text(value),
            Err(_) => return ("CAST(? AS TEXT)", Some(blob(bytes.to_vec()))),
        },
        ValueRef::Blob(bytes) => blob(bytes.to_vec()),
    };
    ("?", Some(value))
}

fn blob(bytes: Vec<u8>) -> Value {
    Value::Blob { value: bytes.into() }
}

/// What is wrong with a recorded value. Never says the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BadValue {
    /// Not as the contract says.
    Malformed,
    /// The protocol cannot carry it.
    Infinite,
    /// One recorded row that no request should have.
    TooLarge,
}

impl fmt::Display for BadValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BadValue::Malformed => "its recorded values are not readable",
            BadValue::TooLarge => "its values are too large for one request",
            BadValue::Infinite => "an infinite number cannot be sent",
        })
    }
}

/// The statements of one outbox row: `sql` once for each of `rows` (JSON).
///
/// # Errors
/// [`BadValue`].
pub(super) fn recorded(sql: &str, rows: &str) -> Result<Vec<Stmt>, BadValue> {
    let rows: Vec<Json> = serde_json::from_str(rows).map_err(|_| BadValue::Malformed)?;
    let mut stmts = Vec::with_capacity(rows.len());
    for row in &rows {
        let mut stmt = Stmt::new(sql, false);
        match row {
            Json::Array(values) => stmt.args = values.iter().map(parse).collect::<Result<_, _>>()?,
            Json::Object(values) => {
                for (name, value) in values {
                    stmt.named_args.push(NamedArg {
                        name: name.clone(),
                        value: parse(value)?,
                    });
                }
            }
            _ => return Err(BadValue::Malformed),
        }
        stmts.push(stmt);
    }
    Ok(stmts)
}

fn parse(value: &Json) -> Result<Value, BadValue> {
    match value {
        Json::Null => Ok(Value::Null),
        Json::String(value) => Ok(text(value)),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(value), _) => Ok(Value::Integer { value }),
            // An integer over 64 bits was never bound by SQLite.
            (None, Some(value)) if number.is_f64() && value.is_finite() => Ok(Value::Float { value }),
            _ => Err(BadValue::Malformed),
        },
        Json::Object(object) if object.len() == 1 => match (object.get("b"), object.get("f")) {
            (Some(Json::String(base64)), None) => {
                let bytes = BASE64.decode(base64).map_err(|_| BadValue::Malformed)?;
                Ok(blob(bytes))
            }
            (None, Some(Json::String(name))) if name == "Infinity" || name == "-Infinity" => Err(BadValue::Infinite),
            _ => Err(BadValue::Malformed),
        },
        Json::Bool(_) | Json::Array(_) | Json::Object(_) => Err(BadValue::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(rows: &str) -> Vec<String> {
        let stmts = recorded("s", rows).unwrap();
        let all = stmts.iter().flat_map(|stmt| {
            let named = stmt
                .named_args
                .iter()
                .map(|arg| format!("{}={:?}", arg.name, arg.value));
            stmt.args.iter().map(|value| format!("{value:?}")).chain(named)
        });
        all.collect()
    }

    #[test]
    fn recorded_values_are_read_exactly() {
        let wanted = [
            Value::Null,
            int(-9_223_372_036_854_775_808),
            Value::Float { value: 1.0 },
            Value::Float {
                value: 1_732_550_000.123_456_7,
            },
            text("ä\u{0}"),
            blob(vec![0, 255]),
        ]
        .map(|value| format!("{value:?}"));
        let read = args(r#"[[null,-9223372036854775808,1.0,1732550000.1234567,"ä\u0000",{"b":"AP8="}]]"#);
        assert_eq!(read, wanted);
        assert_eq!(
            args(r#"[{"id":1},{"id":2}]"#),
            ["id", "id"]
                .iter()
                .zip([1, 2])
                .map(|(name, value)| format!("{name}={:?}", int(value)))
                .collect::<Vec<_>>()
        );
        assert_eq!(
            args(r#"[[{"b":"AP8"}]]"#),
            args(r#"[[{"b":"AP8="}]]"#),
            "padding is optional"
        );
        assert!(recorded("s", "[]").unwrap().is_empty());
    }

    #[test]
    fn what_the_contract_does_not_know_is_an_error() {
        for rows in [
            "",
            "{}",
            "[1]",
            "[[true]]",
            "[[[1]]]",
            "[[18446744073709551615]]",
            r#"[[{"b":1}]]"#,
            r#"[[{"b":"*"}]]"#,
            r#"[[{"x":"AP8="}]]"#,
            r#"[[{"f":"NaN"}]]"#,
        ] {
            assert_eq!(recorded("s", rows).err(), Some(BadValue::Malformed), "{rows}");
        }
        assert_eq!(
            recorded("s", r#"[[{"f":"-Infinity"}]]"#).err(),
            Some(BadValue::Infinite)
        );
    }

    #[test]
    fn what_json_cannot_carry_is_made_on_the_other_side() {
        assert_eq!(bound(ValueRef::Real(f64::NEG_INFINITY)).0, "-9e999");
        let (sql, value) = bound(ValueRef::Text(&[0xff]));
        assert_eq!(sql, "CAST(? AS TEXT)");
        assert!(matches!(value, Some(Value::Blob { value }) if *value == [0xff][..]));
    }
}
