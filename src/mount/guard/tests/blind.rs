//! A directory that rclone can't read: what is in it is not absent.

use nfs3_types::nfs3::*;

use super::super::*;
use super::mount::Mount;
use super::*;

#[tokio::test]
async fn what_can_not_be_seen_is_not_called_absent_and_nothing_is_made_over_it() {
    let mut mount = Mount::of(&[("work/plan.md", "written long ago")]).await;
    let root = mount.root.clone();
    let work = mount.find(&root, "work").await.unwrap().handle;
    mount.handle.set_unread(true);
    mount.life.store.lock().unwrap().unreadable = Some("work".into());
    assert_eq!(mount.find(&work, "plan.md").await, Err(nfsstat3::NFS3ERR_IO));
    let unchecked = Some(createhow3::UNCHECKED(sized(None)));
    assert_eq!(mount.make(&work, "plan.md", unchecked).await, Err(nfsstat3::NFS3ERR_IO));
    assert_eq!(
        mount.find(&root, "none.md").await,
        Err(nfsstat3::NFS3ERR_NOENT),
        "its directory can be read"
    );
    mount.life.store.lock().unwrap().unreadable = None;
    mount.find(&work, "plan.md").await.unwrap();
    assert_eq!(
        mount.life.content("work/plan.md").as_deref(),
        Some(&b"written long ago"[..])
    );
}

#[tokio::test]
async fn a_file_that_a_new_rclone_can_not_see_is_not_stale() {
    let mut mount = Mount::of(&[("work/plan.md", "written long ago")]).await;
    let root = mount.root.clone();
    let work = mount.find(&root, "work").await.unwrap().handle;
    let plan = mount.find(&work, "plan.md").await.unwrap();
    let mut mount = mount.restarted().await;
    mount.handle.set_unread(true);
    mount.life.store.lock().unwrap().unreadable = Some("work".into());
    assert_eq!(mount.number(&plan.handle).await, Err(nfsstat3::NFS3ERR_IO));
    mount.life.store.lock().unwrap().unreadable = None;
    assert_eq!(mount.number(&plan.handle).await, Ok(plan.number));
}

/// An rclone that the bucket has just failed.
struct Failed;

impl Rclone for Failed {
    fn settled<'a>(&'a self, _: &'a str, _: &'a str) -> Waiting<'a, Result<(), String>> {
        Box::pin(std::future::ready(Ok(())))
    }
    fn may_be_renamed_later(&self, _: &str) -> bool {
        false
    }
    fn was_failed(&self) -> bool {
        true
    }
}

#[tokio::test]
async fn an_rclone_that_the_bucket_has_just_failed_is_not_believed() {
    let mut mount = Mount::with(&[("work/plan.md", "written long ago")], Arc::new(Failed)).await;
    let root = mount.root.clone();
    let work = mount.find(&root, "work").await.unwrap().handle;
    mount.life.store.lock().unwrap().unreadable = Some("work".into());
    assert_eq!(mount.find(&work, "plan.md").await, Err(nfsstat3::NFS3ERR_IO));
    assert_eq!(
        mount.find(&root, "none.md").await,
        Err(nfsstat3::NFS3ERR_NOENT),
        "its directory can be read"
    );
}

#[tokio::test]
async fn a_directory_that_is_read_again_is_not_believed_empty() {
    let mut mount = Mount::of(&[("work/plan.md", "written long ago")]).await;
    let root = mount.root.clone();
    let work = mount.find(&root, "work").await.unwrap().handle;
    mount.handle.reads("work");
    mount.life.store.lock().unwrap().unreadable = Some("work".into());
    assert_eq!(mount.find(&work, "plan.md").await, Err(nfsstat3::NFS3ERR_IO));
    mount.handle.has_read("work");
    assert_eq!(
        mount.find(&work, "plan.md").await,
        Err(nfsstat3::NFS3ERR_NOENT),
        "it has been read"
    );
}

#[tokio::test]
async fn rclone_is_believed_when_it_has_read_everything_and_the_bucket_answers() {
    let mut mount = Mount::of(&[("a.md", "one")]).await;
    let root = mount.root.clone();
    let listings = |mount: &Mount| {
        let asked = &mount.life.store.lock().unwrap().asked;
        asked
            .iter()
            .filter(|asked| **asked == NFS_PROGRAM::NFSPROC3_READDIR)
            .count()
    };
    assert_eq!(mount.find(&root, "none.md").await, Err(nfsstat3::NFS3ERR_NOENT));
    assert_eq!(listings(&mount), 0, "it costs nothing then");
    mount.handle.set_unread(true);
    for _ in 0..2 {
        assert_eq!(mount.find(&root, "none.md").await, Err(nfsstat3::NFS3ERR_NOENT));
    }
    assert_eq!(listings(&mount), 1, "a directory that it has read it knows");
    mount.handle.set_away(true);
    for _ in 0..2 {
        assert_eq!(mount.find(&root, "none.md").await, Err(nfsstat3::NFS3ERR_NOENT));
    }
    assert_eq!(listings(&mount), 3);
    let unchecked = Some(createhow3::UNCHECKED(sized(None)));
    mount.make(&root, "none.md", unchecked).await.unwrap();
    assert_eq!(mount.life.content("none.md").as_deref(), Some(&b""[..]));
}
