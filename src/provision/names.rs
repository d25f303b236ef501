//! What a tenant's things are called. Always the same, so that they are found again.

use super::error::ProvisionError;
use crate::exit::Exit;

/// Longest name of a bucket.
const LONGEST: usize = 63;
/// Longest part of a host name (RFC 1035): a Turso database is `DATABASE-ORGANIZATION.REGION.turso.io`.
const LONGEST_LABEL: usize = 63;

/// What [`is_plain`] wants, in words.
pub(super) const RULE: &str = "lower-case letters, digits and single `-`, beginning and ending with a letter or digit";

/// The name that a tenant's bucket, policy, key and database have.
pub(super) fn of(prefix: &str, tenant: &str, organization: &str) -> Result<String, ProvisionError> {
    let wrong =
        |why: String, todo: String| ProvisionError::new(Exit::Usage, format!("the tenant {tenant:?}"), why, todo);
    if !is_plain(tenant) {
        return Err(wrong(
            "cannot be part of the name of a bucket and of a database".to_owned(),
            format!("allowed: {RULE}"),
        ));
    }
    let name = format!("{prefix}-{tenant}");
    let room = LONGEST.min(LONGEST_LABEL.saturating_sub(organization.len() + 1));
    if name.len() > room {
        return Err(wrong(
            format!("would be called {name}, {} characters", name.len()),
            format!(
                "at most {room} have a place in the name of a bucket and, with the organization {organization}, of a host"
            ),
        ));
    }
    Ok(name)
}

/// The tenant whose things are called `name`; `None` when it is not one of ours.
pub(super) fn tenant<'a>(prefix: &str, name: &'a str) -> Option<&'a str> {
    let tenant = name.strip_prefix(prefix)?.strip_prefix('-')?;
    is_plain(tenant).then_some(tenant)
}

/// May it be a part of these names?
pub(super) fn is_plain(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !text.is_empty()
        && text.chars().all(plain)
        && !text.starts_with('-')
        && !text.ends_with('-')
        && !text.contains("--")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_has_one_name() {
        assert_eq!(of("tenant", "acme-2", "org").unwrap(), "tenant-acme-2");
        assert_eq!(tenant("tenant", "tenant-acme-2"), Some("acme-2"));
        for other in ["tenant", "tenant-", "tenants-acme", "other-acme", "tenant-Acme"] {
            assert_eq!(tenant("tenant", other), None, "{other}");
        }
    }

    #[test]
    fn what_cannot_be_a_name_is_refused_with_the_rule() {
        for bad in ["", "Acme", "a.b", "a_b", "-a", "a-", "a--b", "ä", "a b", "a/b"] {
            let error = of("tenant", bad, "org").unwrap_err();
            assert_eq!(error.exit, Exit::Usage, "{bad}");
            assert!(error.to_string().contains("lower-case"), "{error}");
        }
        assert!(of("tenant", &"a".repeat(52), "org").is_ok());
        let error = of("tenant", &"a".repeat(53), "org").unwrap_err();
        assert!(error.to_string().contains("at most 59"), "{error}");
        assert!(of("tenant", "acme", &"o".repeat(80)).is_err());
    }
}
