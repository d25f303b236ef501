//! Has the bucket what rclone said it stored, and not what it said it deleted?
//!
//! Between "uploaded" and the bucket stand races that rclone does not see: an upload that another one overtakes, a request
//! that the network delivers after its sender has given it up, a copy in the bucket that removes what it finds of another
//! length, a deletion of an object that rclone has lost sight of. So each upload and each deletion is compared with the
//! bucket afterwards, one request for each. What this module decides is what follows from that look; `mount::Ledger` knows
//! what to look at, `supervise/auditing.rs` does it.

/// What must be in the bucket under a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Nothing: it was deleted or renamed here.
    Absent,
    /// The content that the cache has: it was uploaded from there.
    Uploaded,
    /// An object that was copied to this name in the bucket; the cache may still have what was there before.
    Copied,
    /// The content that the cache has, if it has any: a copy to this name went wrong, and rclone took the object away.
    Doubtful,
}

/// The object that was found under a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Bytes.
    pub size: u64,
    /// As the store gives it, without quotes: of a simple upload the MD5 of its content in lower-case hex.
    pub etag: String,
    /// Uploaded from this cache.
    pub ours: bool,
    /// Older than the deletion, as far as clocks can tell. Only asked for [`Wanted::Absent`].
    pub before: bool,
}

/// What the cache has under a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cached {
    /// Newer content that is not uploaded yet.
    Unsent,
    /// All of it, as it was uploaded.
    Whole {
        /// Bytes.
        size: u64,
        /// MD5 of the content, lower-case hex; `None` when the store's ETags are none.
        md5: Option<String>,
    },
    /// Nothing, or not all of it.
    Not,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// Nothing: it is as it must be.
    AsWanted,
    /// Nothing yet: the newer content is uploaded first.
    Later,
    /// Delete the object: it is the one that was deleted, or an older one of ours that came late.
    Delete,
    /// Upload the cached content, provided that the bucket still has under this name what was seen: this ETag, or nothing.
    Restore(Option<String>),
    /// Somebody else has changed it since. That is not ours to undo.
    Elsewhere,
    /// It is gone, and the cache cannot bring it back.
    Lost,
}

/// `may_be_lost`: nobody has looked since, or something may still delete it; otherwise an object that is gone was deleted elsewhere.
#[must_use]
pub fn judge(wanted: Wanted, found: Option<&Object>, cached: &Cached, may_be_lost: bool) -> Finding {
    match (wanted, found, cached) {
        (Wanted::Absent, None, _) => Finding::AsWanted,
        (Wanted::Absent, Some(object), _) if object.ours || object.before => Finding::Delete,
        (Wanted::Absent, Some(_), _) => Finding::Elsewhere,
        (_, _, Cached::Unsent) => Finding::Later,
        // There is nothing that could have been overwritten.
        (Wanted::Doubtful, None, _) if !may_be_lost => Finding::AsWanted,
        (_, None, _) if !may_be_lost => Finding::Elsewhere,
        (Wanted::Copied, Some(_), _) | (_, Some(_), Cached::Not) => Finding::AsWanted,
        (Wanted::Copied, None, _) | (Wanted::Uploaded, None, Cached::Not) => Finding::Lost,
        (Wanted::Doubtful, None, Cached::Not) => Finding::AsWanted,
        (_, None, Cached::Whole { .. }) => Finding::Restore(None),
        (_, Some(object), Cached::Whole { size, md5 }) => {
            if same(object, *size, md5.as_deref()) {
                Finding::AsWanted
            } else if object.ours {
                Finding::Restore(Some(object.etag.clone()))
            } else {
                Finding::Elsewhere
            }
        }
    }
}

/// An upload in parts has an ETag that is no MD5 of anything we have; then the size must do.
fn same(object: &Object, size: u64, md5: Option<&str>) -> bool {
    object.size == size && md5.is_none_or(|md5| !is_md5(&object.etag) || object.etag == md5)
}

/// Can this ETag be compared with the MD5 of a content?
#[must_use]
pub fn is_md5(etag: &str) -> bool {
    etag.len() == 32 && etag.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "b522c5a4cdce961f4a53e0f292436da0";
    const NEW: &str = "5d41402abc4b2a76b9719d911017c592";

    fn object(etag: &str, ours: bool, before: bool) -> Object {
        Object {
            size: 5,
            etag: etag.into(),
            ours,
            before,
        }
    }

    fn whole() -> Cached {
        Cached::Whole {
            size: 5,
            md5: Some(NEW.into()),
        }
    }

    #[test]
    fn a_deleted_name_is_empty_or_somebody_elses() {
        let judge = |found: Option<&Object>| judge(Wanted::Absent, found, &Cached::Not, true);
        assert_eq!(judge(None), Finding::AsWanted);
        assert_eq!(judge(Some(&object(OLD, false, true))), Finding::Delete);
        assert_eq!(
            judge(Some(&object(OLD, true, false))),
            Finding::Delete,
            "delivered late"
        );
        assert_eq!(judge(Some(&object(OLD, false, false))), Finding::Elsewhere);
    }

    #[test]
    fn an_upload_that_another_one_overtook_is_made_again() {
        let judge = |found: Option<&Object>, cached: &Cached| judge(Wanted::Uploaded, found, cached, true);
        let (overtaken, right) = (object(OLD, true, false), object(NEW, true, false));
        assert_eq!(judge(Some(&right), &whole()), Finding::AsWanted);
        assert_eq!(judge(Some(&overtaken), &whole()), Finding::Restore(Some(OLD.into())));
        assert_eq!(judge(Some(&overtaken), &Cached::Unsent), Finding::Later);
        assert_eq!(
            judge(Some(&object(OLD, false, false)), &whole()),
            Finding::Elsewhere,
            "another machine's"
        );
        assert_eq!(judge(None, &whole()), Finding::Restore(None));
        assert_eq!(judge(None, &Cached::Not), Finding::Lost);
    }

    #[test]
    fn what_was_seen_once_and_is_gone_was_deleted_elsewhere() {
        assert_eq!(judge(Wanted::Uploaded, None, &whole(), false), Finding::Elsewhere);
    }

    #[test]
    fn a_copy_in_the_bucket_is_not_compared_with_what_the_cache_had_under_its_name() {
        let judge = |wanted, found: Option<&Object>, cached: &Cached| judge(wanted, found, cached, true);
        let copy = object(OLD, true, false);
        assert_eq!(judge(Wanted::Copied, Some(&copy), &whole()), Finding::AsWanted);
        assert_eq!(judge(Wanted::Copied, None, &whole()), Finding::Lost);
        assert_eq!(judge(Wanted::Doubtful, None, &whole()), Finding::Restore(None));
        assert_eq!(judge(Wanted::Doubtful, None, &Cached::Not), Finding::AsWanted);
        let deleted_elsewhere = super::judge(Wanted::Doubtful, None, &whole(), false);
        assert_eq!(deleted_elsewhere, Finding::AsWanted, "nothing here takes it away");
    }

    #[test]
    fn without_a_comparable_etag_the_size_decides() {
        let parts = object(&format!("{OLD}-2"), true, false);
        assert_eq!(judge(Wanted::Uploaded, Some(&parts), &whole(), true), Finding::AsWanted);
        let unknown = Cached::Whole { size: 5, md5: None };
        assert_eq!(
            judge(Wanted::Uploaded, Some(&object(OLD, true, false)), &unknown, true),
            Finding::AsWanted
        );
        let longer = Cached::Whole { size: 6, md5: None };
        assert_eq!(
            judge(Wanted::Uploaded, Some(&parts), &longer, true),
            Finding::Restore(Some(parts.etag.clone()))
        );
    }
}
