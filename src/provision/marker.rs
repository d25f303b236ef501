//! The object that says whose bucket it is.

use serde::{Deserialize, Serialize};

/// Its name in the bucket; the mount does not care for it.
pub(super) const OBJECT: &str = ".tenant-init/tenant.json";

#[derive(Serialize, Deserialize)]
struct Marker {
    version: u32,
    tenant: String,
}

/// The object's content for `tenant`.
pub(super) fn write(tenant: &str) -> Vec<u8> {
    let marker = Marker {
        version: 1,
        tenant: tenant.to_owned(),
    };
    // A number and a text always have a JSON form.
    serde_json::to_vec(&marker).unwrap_or_default()
}

/// The tenant; `None` when this is no such object.
pub(super) fn read(bytes: &[u8]) -> Option<String> {
    let marker: Marker = serde_json::from_slice(bytes).ok()?;
    (marker.version == 1).then_some(marker.tenant)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        assert_eq!(read(&write("acme")).as_deref(), Some("acme"));
        for other in ["", "{}", r#"{"version": 2, "tenant": "acme"}"#, "[]"] {
            assert_eq!(read(other.as_bytes()), None, "{other}");
        }
    }
}
