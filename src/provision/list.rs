//! All tenants at a glance: all pages of policies and keys, one answer each with the buckets and the databases. The buckets
//! themselves are not looked into.

use std::collections::BTreeMap;
use std::io::{self, Write};

use jiff::{Timestamp, Unit};
use serde_json::{Value, json};

use super::error::ProvisionError;
use super::iam::Iam;
use super::names;
use super::settings::Settings;
use super::survey::{self, key_name};
use super::turso::Turso;

/// What there is of a tenant.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Row {
    bucket: bool,
    policy: bool,
    database: bool,
    /// Keys that have the policy, as far as the service says.
    attachments: Option<usize>,
    /// Id and when it was made.
    keys: Vec<(String, String)>,
}

impl Row {
    /// What is missing or one too many.
    fn remarks(&self) -> Vec<String> {
        let mut remarks: Vec<String> = [
            (self.bucket, "bucket"),
            (self.policy, "policy"),
            (self.database, "database"),
        ]
        .into_iter()
        .filter(|(there, _)| !there)
        .map(|(_, part)| format!("no {part}"))
        .collect();
        if self.policy && self.is_unattached() && !self.keys.is_empty() {
            remarks.push("no key with the policy".to_owned());
        }
        match self.keys.len() {
            0 => remarks.push("no key".to_owned()),
            1 => {}
            several => remarks.push(format!("{several} keys: `rotate --finish` deletes the old ones")),
        }
        remarks
    }

    fn is_complete(&self) -> bool {
        self.bucket && self.policy && self.database && !self.keys.is_empty() && !self.is_unattached()
    }

    /// No key has the policy.
    fn is_unattached(&self) -> bool {
        self.attachments == Some(0)
    }
}

/// Every tenant of which there is anything.
pub(super) async fn look(settings: &Settings) -> Result<BTreeMap<String, Row>, ProvisionError> {
    let all = survey::bucket(settings, "")?;
    let buckets = all
        .all()
        .await
        .map_err(|error| ProvisionError::bucket("listing the buckets", &error))?;
    let iam = Iam::new(settings)?;
    let (policies, keys) = (iam.policies().await?, iam.keys().await?);
    let databases = Turso::new(settings)?.databases().await?;
    let keys = keys.into_iter().map(|key| (key.name, key.id, key.created)).collect();
    let policies: Vec<_> = policies
        .into_iter()
        .map(|policy| (policy.name, policy.attachments))
        .collect();
    let databases: Vec<_> = databases.into_iter().map(|database| database.name).collect();
    Ok(rows(&settings.prefix, &buckets, &policies, &databases, keys))
}

fn rows(
    prefix: &str,
    buckets: &[String],
    policies: &[(String, Option<usize>)],
    databases: &[String],
    keys: Vec<(String, String, String)>,
) -> BTreeMap<String, Row> {
    let mut rows: BTreeMap<String, Row> = BTreeMap::new();
    let mut found = |names: &[String], set: fn(&mut Row)| {
        for tenant in names.iter().filter_map(|name| names::tenant(prefix, name)) {
            set(rows.entry(tenant.to_owned()).or_default());
        }
    };
    found(buckets, |row| row.bucket = true);
    found(databases, |row| row.database = true);
    for (name, attachments) in policies {
        if let Some(tenant) = names::tenant(prefix, name) {
            let row = rows.entry(tenant.to_owned()).or_default();
            (row.policy, row.attachments) = (true, *attachments);
        }
    }
    for (name, id, created) in keys {
        let of_ours = name
            .strip_suffix(&key_name(""))
            .and_then(|name| names::tenant(prefix, name));
        if let Some(tenant) = of_ours {
            rows.entry(tenant.to_owned()).or_default().keys.push((id, created));
        }
    }
    rows
}

/// For people: one line a tenant, one for each key.
pub(super) fn text(rows: &BTreeMap<String, Row>, prefix: &str, now: Timestamp, out: &mut dyn Write) -> io::Result<()> {
    if rows.is_empty() {
        return writeln!(out, "no tenant: nothing is called {prefix}-…");
    }
    for (tenant, row) in rows {
        let state = if row.is_complete() { "complete" } else { "INCOMPLETE" };
        let remarks = row.remarks();
        let remarks = if remarks.is_empty() {
            String::new()
        } else {
            format!(" ({})", remarks.join(", "))
        };
        writeln!(
            out,
            "{tenant}  {state}{remarks}  bucket, policy and database: {prefix}-{tenant}"
        )?;
        for (id, created) in &row.keys {
            writeln!(out, "  key {id}  {}", age(created, now))?;
        }
    }
    Ok(())
}

/// For programs.
pub(super) fn json(rows: &BTreeMap<String, Row>, prefix: &str) -> Value {
    let tenants = rows.iter().map(|(tenant, row)| {
        let keys = row
            .keys
            .iter()
            .map(|(id, created)| json!({"id": id, "created": created}));
        json!({
            "tenant": tenant,
            "name": format!("{prefix}-{tenant}"),
            "complete": row.is_complete(),
            "bucket": row.bucket,
            "policy": row.policy,
            "database": row.database,
            "keys": keys.collect::<Vec<_>>(),
        })
    });
    json!({"tenants": tenants.collect::<Vec<_>>()})
}

fn age(created: &str, now: Timestamp) -> String {
    let Ok(then) = created.parse::<Timestamp>() else {
        return "of unknown age".to_owned();
    };
    let hours = now.since((Unit::Hour, then)).map_or(0, |span| span.get_hours());
    match hours {
        ..1 => "made within the hour".to_owned(),
        1..48 => format!("{hours} h old"),
        _ => format!("{} days old", hours / 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some() -> BTreeMap<String, Row> {
        let text = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let key = |name: &str, id: &str, made: &str| (name.to_owned(), id.to_owned(), made.to_owned());
        rows(
            "tenant",
            &text(&["tenant-a", "tenant-b", "logs"]),
            &[("tenant-a".to_owned(), Some(2)), ("tenant-d".to_owned(), Some(0))],
            &text(&["tenant-a", "tenant-c", "other"]),
            vec![
                key("tenant-a-tenant-provision", "tid_1", "2026-01-01T00:00:00Z"),
                key("tenant-a-tenant-provision", "tid_2", "2026-01-10T22:00:00Z"),
                key("tenant-a", "tid_by_hand", ""),
                key("tenant-d-tenant-provision", "tid_3", ""),
            ],
        )
    }

    #[test]
    fn what_belongs_together_is_one_row_and_what_is_missing_is_said() {
        let mut out = vec![];
        text(&some(), "tenant", "2026-01-11T00:00:00Z".parse().unwrap(), &mut out).unwrap();
        let out = String::from_utf8(out).unwrap();
        let lines: Vec<&str> = out.lines().collect();
        assert!(lines[0].starts_with("a  complete (2 keys: "), "{out}");
        assert_eq!(lines[1..3], ["  key tid_1  10 days old", "  key tid_2  2 h old"]);
        assert!(
            lines[3].starts_with("b  INCOMPLETE (no policy, no database, no key)"),
            "{out}"
        );
        assert!(
            lines[4].starts_with("c  INCOMPLETE (no bucket, no policy, no key)"),
            "{out}"
        );
        assert!(
            lines[5].starts_with("d  INCOMPLETE (no bucket, no database, no key with the policy)"),
            "{out}"
        );
        assert_eq!(lines[6..], ["  key tid_3  of unknown age"]);
    }

    #[test]
    fn programs_get_the_same() {
        let value = json(&some(), "tenant");
        assert_eq!(value["tenants"][0]["keys"][1]["id"], "tid_2");
        assert_eq!(value["tenants"][1]["complete"], false);
    }
}
