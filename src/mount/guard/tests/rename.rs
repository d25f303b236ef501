//! Renames: alone on both files, after their uploads, and again when the bucket was away for a moment.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use nfs3_types::nfs3::*;
use tokio::sync::Semaphore;

use super::super::*;
use super::mount::Mount;
use super::store::Loss;
use super::*;

/// Uploads that a test lets end.
struct Queue {
    ended: Semaphore,
    too_slow: AtomicBool,
    passes: bool,
    asked: Mutex<Vec<(String, String)>>,
}

impl Queue {
    fn of(ended: usize, passes: bool) -> Arc<Self> {
        Arc::new(Queue {
            ended: Semaphore::new(ended),
            too_slow: AtomicBool::new(false),
            passes,
            asked: Mutex::default(),
        })
    }
    fn asked(&self) -> Vec<(String, String)> {
        self.asked.lock().unwrap().clone()
    }
}

impl Rclone for Queue {
    fn settled<'a>(&'a self, from: &'a str, to: &'a str) -> Waiting<'a, Result<(), String>> {
        self.asked.lock().unwrap().push((from.to_owned(), to.to_owned()));
        Box::pin(async {
            self.ended.acquire().await.unwrap().forget();
            match self.too_slow.load(Ordering::Relaxed) {
                true => Err("too slow".to_owned()),
                false => Ok(()),
            }
        })
    }
    fn may_be_renamed_later(&self, _: &str) -> bool {
        self.passes
    }
    fn was_failed(&self) -> bool {
        false
    }
}

fn renaming(xid: u32, directory: &nfs_fh3, from: &str, to: &str) -> Vec<u8> {
    let (from, to) = (mount::entry(directory, from), mount::entry(directory, to));
    nfs(xid, NFS_PROGRAM::NFSPROC3_RENAME, &RENAME3args { from, to })
}

fn attributes(xid: u32, object: &nfs_fh3) -> Vec<u8> {
    let object = object.clone();
    nfs(xid, NFS_PROGRAM::NFSPROC3_GETATTR, &GETATTR3args { object })
}

async fn until(mut condition: impl FnMut() -> bool) {
    let poll = async {
        while !condition() {
            sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(DEADLINE, poll).await.expect("never");
}

impl Mount {
    fn renames(&self) -> usize {
        let asked = &self.life.store.lock().unwrap().asked;
        let renames = asked.iter().filter(|asked| **asked == NFS_PROGRAM::NFSPROC3_RENAME);
        renames.count()
    }
}

#[tokio::test]
async fn a_rename_waits_for_the_uploads_of_both_files_and_is_not_taken_for_one_that_hangs() {
    let queue = Queue::of(0, false);
    let mut mount = Mount::with(&[("work/a.md", "one"), ("b.md", "two")], queue.clone()).await;
    let root = mount.root.clone();
    let work = mount.find(&root, "work").await.unwrap().handle;
    mount.find(&work, "a.md").await.unwrap();
    let arguments = RENAME3args {
        from: mount::entry(&work, "a.md"),
        to: mount::entry(&root, "b.md"),
    };
    mount
        .kernel
        .send(&nfs(100, NFS_PROGRAM::NFSPROC3_RENAME, &arguments))
        .await;
    until(|| queue.asked() == [("work/a.md".to_owned(), "b.md".to_owned())]).await;
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(15)).await;
    tokio::time::resume();
    until(|| mount.handle.oldest() < Some(Duration::from_secs(5))).await;
    assert_eq!(mount.renames(), 0);
    queue.ended.add_permits(1);
    assert_eq!(status_of(&mount.kernel.reply().await), nfsstat3::NFS3_OK);
    assert_eq!(mount.life.content("b.md").as_deref(), Some(&b"one"[..]));
}

#[tokio::test]
async fn a_rename_whose_uploads_do_not_end_fails_and_nothing_has_changed() {
    let queue = Queue::of(1, true);
    queue.too_slow.store(true, Ordering::Relaxed);
    let mut mount = Mount::with(&[("a.md", "one")], queue).await;
    let root = mount.root.clone();
    mount.find(&root, "a.md").await.unwrap();
    assert_eq!(mount.rename(&root, "a.md", "b.md").await, Err(nfsstat3::NFS3ERR_IO));
    assert_eq!(mount.renames(), 0, "rclone was not asked");
    assert!(mount.find(&root, "a.md").await.is_ok());
}

#[tokio::test]
async fn while_a_file_is_renamed_it_is_neither_read_nor_written_and_others_are() {
    let mut mount = Mount::of(&[("a.md", "one"), ("b.md", "two"), ("c.md", "three")]).await;
    let root = mount.root.clone();
    let mut handles = Vec::new();
    for name in ["a.md", "b.md", "c.md"] {
        handles.push(mount.find(&root, name).await.unwrap().handle);
    }
    let gate = Arc::new(Semaphore::new(0));
    mount.life.store.lock().unwrap().gate = Some(Arc::clone(&gate));
    mount.kernel.send(&renaming(100, &root, "a.md", "b.md")).await;
    until(|| mount.life.store.lock().unwrap().gate.is_none()).await;
    let write = WRITE3args {
        file: handles[1].clone(),
        offset: 0,
        count: 4,
        stable: stable_how::FILE_SYNC,
        data: nfs3_types::xdr_codec::Opaque::borrowed(b"late"),
    };
    mount.kernel.send(&attributes(101, &handles[0])).await;
    mount.kernel.send(&nfs(102, NFS_PROGRAM::NFSPROC3_WRITE, &write)).await;
    mount.kernel.send(&attributes(103, &handles[2])).await;
    assert_eq!(xid_of(&mount.kernel.reply().await), 103, "another file's");
    mount.kernel.send(&attributes(104, &handles[1])).await;
    until(|| mount.handle.in_flight() == 4).await;
    gate.close();
    assert_eq!(xid_of(&mount.kernel.reply().await), 100);
    let mut rest = Vec::new();
    for _ in 0..3 {
        let reply = mount.kernel.reply().await;
        rest.push((xid_of(&reply), status_of(&reply)));
    }
    rest.sort_by_key(|(xid, _)| *xid);
    assert_eq!(
        rest,
        [
            (101, nfsstat3::NFS3_OK),
            (102, nfsstat3::NFS3ERR_STALE),
            (104, nfsstat3::NFS3ERR_STALE)
        ],
        "the file that was replaced is gone"
    );
    assert_eq!(mount.life.content("b.md").as_deref(), Some(&b"one"[..]));
    let a = handles[0].clone();
    mount
        .number(&a)
        .await
        .expect("it is known by its handle, and nothing waits any more");
}

#[tokio::test]
async fn a_rename_that_fails_because_the_bucket_is_away_is_tried_again() {
    let mut mount = Mount::with(&[("a.md", "one")], Queue::of(9, true)).await;
    let root = mount.root.clone();
    mount.find(&root, "a.md").await.unwrap();
    mount.life.lose(NFS_PROGRAM::NFSPROC3_RENAME, Loss::Fails);
    assert_eq!(mount.rename(&root, "a.md", "b.md").await, Ok(()));
    // One that failed, one to the name it has, one that succeeded.
    assert_eq!(mount.renames(), 3);
    assert_eq!(mount.life.content("b.md").as_deref(), Some(&b"one"[..]));
}

#[tokio::test]
async fn a_rename_that_fails_for_another_reason_is_not() {
    let mut mount = Mount::with(&[("a.md", "one")], Queue::of(9, false)).await;
    let root = mount.root.clone();
    mount.find(&root, "a.md").await.unwrap();
    mount.life.lose(NFS_PROGRAM::NFSPROC3_RENAME, Loss::Fails);
    assert_eq!(mount.rename(&root, "a.md", "b.md").await, Err(nfsstat3::NFS3ERR_IO));
    assert_eq!(mount.life.content("a.md").as_deref(), Some(&b"one"[..]));
}

#[tokio::test]
async fn a_directory_is_renamed_once_and_never_to_its_own_name() {
    let mut mount = Mount::with(&[("work/a.md", "one")], Queue::of(9, true)).await;
    let root = mount.root.clone();
    mount.find(&root, "work").await.unwrap();
    mount.life.lose(NFS_PROGRAM::NFSPROC3_RENAME, Loss::Fails);
    assert_eq!(mount.rename(&root, "work", "other").await, Err(nfsstat3::NFS3ERR_IO));
    assert_eq!(
        mount.renames(),
        1,
        "rclone would copy each file onto itself, and delete it"
    );
}

#[tokio::test]
async fn a_directory_is_looked_at_while_it_is_renamed() {
    let mut mount = Mount::of(&[("work/a.md", "one")]).await;
    let root = mount.root.clone();
    let work = mount.find(&root, "work").await.unwrap().handle;
    let gate = Arc::new(Semaphore::new(0));
    mount.life.store.lock().unwrap().gate = Some(Arc::clone(&gate));
    mount.kernel.send(&renaming(100, &root, "work", "other")).await;
    until(|| mount.life.store.lock().unwrap().gate.is_none()).await;
    mount.kernel.send(&attributes(101, &work)).await;
    assert_eq!(xid_of(&mount.kernel.reply().await), 101);
    gate.close();
    assert_eq!(xid_of(&mount.kernel.reply().await), 100);
}

#[tokio::test]
async fn a_rename_is_not_repeated_when_nothing_may_be_changed_any_more() {
    let queue = Queue::of(0, true);
    let mut mount = Mount::with(&[("a.md", "one")], queue.clone()).await;
    let root = mount.root.clone();
    mount.find(&root, "a.md").await.unwrap();
    mount.kernel.send(&renaming(100, &root, "a.md", "b.md")).await;
    until(|| !queue.asked().is_empty()).await;
    mount.handle.set_read_only(Some(ReadOnlyReason::LeaseLost));
    queue.ended.add_permits(1);
    assert_eq!(status_of(&mount.kernel.reply().await), nfsstat3::NFS3ERR_ROFS);
    assert_eq!(mount.renames(), 0);
}
