//! What the kernel sees of an rclone that is killed and replaced: nothing.

use nfs3_types::nfs3::*;
use nfs3_types::xdr_codec::Opaque;

use super::mount::{Mount, entry};
use super::store::Loss;
use super::*;

fn exclusive() -> Option<createhow3> {
    Some(createhow3::GUARDED(sized(None)))
}

#[tokio::test]
async fn handles_and_file_numbers_survive_any_number_of_restarts() {
    let mut mount = Mount::of(&[("top.md", "1"), ("work/plan.md", "22"), ("work/deep/a.md", "333")]).await;
    let root = mount.root.clone();
    let work = mount.find(&root, "work").await.unwrap();
    let plan = mount.find(&work.handle, "plan.md").await.unwrap();
    let deep = mount.find(&work.handle, "deep").await.unwrap();
    let before = (mount.list(&root).await, mount.list(&work.handle).await);
    let numbers = [work.number, plan.number, deep.number];
    assert_eq!(std::collections::BTreeSet::from(numbers).len(), 3);
    for _ in 0..3 {
        mount = mount.restarted().await;
        assert_eq!(mount.number(&plan.handle).await, Ok(plan.number));
        assert_eq!(mount.number(&deep.handle).await, Ok(deep.number));
        assert_eq!(mount.find(&work.handle, "plan.md").await, Ok(plan.clone()));
        assert_eq!((mount.list(&root).await, mount.list(&work.handle).await), before);
        mount.write(&plan.handle, b"new").await.unwrap();
        assert_eq!(mount.life.content("work/plan.md").unwrap(), b"new");
    }
}

#[tokio::test]
async fn an_object_is_looked_up_once_in_each_life() {
    let mut mount = Mount::of(&[("work/plan.md", "1")]).await;
    let root = mount.root.clone();
    let work = mount.find(&root, "work").await.unwrap();
    let plan = mount.find(&work.handle, "plan.md").await.unwrap();
    mount = mount.restarted().await;
    for _ in 0..10 {
        mount.number(&plan.handle).await.unwrap();
    }
    let asked = mount.life.store.lock().unwrap().asked.clone();
    let lookups = asked
        .iter()
        .filter(|asked| **asked == NFS_PROGRAM::NFSPROC3_LOOKUP)
        .count();
    assert_eq!((lookups, asked.len()), (2, 12));
}

#[tokio::test]
async fn a_renamed_or_replaced_file_keeps_its_handle() {
    let mut mount = Mount::of(&[("a.md", "old"), ("work/plan.md", "1")]).await;
    let root = mount.root.clone();
    let old = mount.find(&root, "a.md").await.unwrap();
    let fresh = mount.make(&root, "a.tmp", exclusive()).await.unwrap();
    mount.write(&fresh.handle, b"new").await.unwrap();
    // The kernel gives a file that is open another name before it is replaced.
    mount.rename(&root, "a.md", ".nfs1").await.unwrap();
    mount.rename(&root, "a.tmp", "a.md").await.unwrap();
    let work = mount.find(&root, "work").await.unwrap();
    let plan = mount.find(&work.handle, "plan.md").await.unwrap();
    mount.rename(&root, "work", "done").await.unwrap();
    for round in 0..2 {
        assert_eq!(mount.number(&fresh.handle).await, Ok(fresh.number));
        assert_eq!(mount.find(&root, "a.md").await, Ok(fresh.clone()));
        assert_eq!(mount.number(&old.handle).await, Ok(old.number), "open, unlinked");
        assert_eq!(mount.number(&plan.handle).await, Ok(plan.number));
        assert_eq!(mount.find(&root, "done").await, Ok(work.clone()));
        if round == 0 {
            mount = mount.restarted().await;
        }
    }
    mount.remove(&root, ".nfs1").await.unwrap();
    assert_eq!(mount.number(&old.handle).await, Err(nfsstat3::NFS3ERR_STALE));
    let again = mount.make(&root, ".nfs1", exclusive()).await.unwrap();
    assert_ne!(again.number, old.number, "numbers are not used twice");
    assert_eq!(mount.number(&old.handle).await, Err(nfsstat3::NFS3ERR_STALE));
}

#[tokio::test]
async fn a_file_that_is_gone_after_the_restart_is_stale() {
    let mut mount = Mount::of(&[("a.md", "1")]).await;
    let root = mount.root.clone();
    let file = mount.find(&root, "a.md").await.unwrap();
    mount.life.store.lock().unwrap().objects.remove("a.md");
    mount = mount.restarted().await;
    assert_eq!(mount.number(&file.handle).await, Err(nfsstat3::NFS3ERR_STALE));
    assert_eq!(mount.find(&root, "a.md").await, Err(nfsstat3::NFS3ERR_NOENT));
}

#[tokio::test]
async fn empty_directories_are_there_again() {
    let mut mount = Mount::of(&[]).await;
    let root = mount.root.clone();
    let outer = mount.make(&root, "outer", None).await.unwrap();
    let inner = mount.make(&outer.handle, "inner", None).await.unwrap();
    mount.make(&root, "gone", None).await.unwrap();
    let arguments = RMDIR3args {
        object: entry(&root, "gone"),
    };
    // RMDIR is REMOVE to this server as it is to rclone's.
    mount.ask(NFS_PROGRAM::NFSPROC3_REMOVE, &arguments).await.unwrap();
    for _ in 0..2 {
        mount = mount.restarted().await;
        assert_eq!(mount.list(&root).await, [("outer".to_owned(), outer.clone())]);
        assert_eq!(mount.list(&outer.handle).await, [("inner".to_owned(), inner.clone())]);
        assert_eq!(mount.number(&inner.handle).await, Ok(inner.number));
    }
    mount = mount.restarted().await;
    let file = mount.make(&inner.handle, "a.md", exclusive()).await.unwrap();
    mount.write(&file.handle, b"x").await.unwrap();
    assert_eq!(mount.life.content("outer/inner/a.md").unwrap(), b"x");
}

#[tokio::test]
async fn an_empty_directory_that_many_calls_need_at_once_is_made_once() {
    let mut mount = Mount::of(&[]).await;
    let root = mount.root.clone();
    let empty = mount.make(&root, "empty", None).await.unwrap();
    for _ in 0..20 {
        mount = mount.restarted().await;
        for xid in 1000..1020 {
            let object = empty.handle.clone();
            let call = nfs(xid, NFS_PROGRAM::NFSPROC3_GETATTR, &GETATTR3args { object });
            mount.kernel.send(&call).await;
        }
        for _ in 1000..1020 {
            assert_eq!(status_of(&mount.kernel.reply().await), nfsstat3::NFS3_OK);
        }
    }
}

/// Every call that changes something, with its reply lost after it was executed or before, and the server restarted then.
#[tokio::test]
async fn a_call_whose_reply_was_lost_succeeds_once() {
    for loss in [Loss::Before, Loss::After] {
        let mut mount = Mount::of(&[("a.md", "content"), ("b.md", "other")]).await;
        let root = mount.root.clone();
        let file = mount.find(&root, "a.md").await.unwrap();

        mount.life.lose(NFS_PROGRAM::NFSPROC3_CREATE, loss);
        let made = mount.make(&root, "new.md", exclusive()).await.unwrap();
        assert_eq!(mount.number(&made.handle).await, Ok(made.number), "{loss:?}");
        mount.life.lose(NFS_PROGRAM::NFSPROC3_MKDIR, loss);
        let directory = mount.make(&root, "directory", None).await.unwrap();
        assert_eq!(mount.number(&directory.handle).await, Ok(directory.number));

        mount.life.lose(NFS_PROGRAM::NFSPROC3_RENAME, loss);
        mount.rename(&root, "a.md", "c.md").await.unwrap();
        assert_eq!(mount.find(&root, "c.md").await, Ok(file.clone()), "{loss:?}");
        mount.find(&root, "b.md").await.unwrap();
        mount.life.lose(NFS_PROGRAM::NFSPROC3_RENAME, loss);
        mount.rename(&root, "c.md", "b.md").await.unwrap();
        assert_eq!(mount.life.content("b.md").unwrap(), b"content");
        assert_eq!(mount.number(&file.handle).await, Ok(file.number));

        mount.life.lose(NFS_PROGRAM::NFSPROC3_WRITE, loss);
        mount.write(&file.handle, b"changed").await.unwrap();
        mount.life.lose(NFS_PROGRAM::NFSPROC3_REMOVE, loss);
        mount.remove(&root, "b.md").await.unwrap();
        assert_eq!(mount.life.content("b.md"), None);
    }
}

#[tokio::test]
async fn an_error_that_was_true_stays_one_when_the_reply_was_lost() {
    for loss in [Loss::Before, Loss::After] {
        let mut mount = Mount::of(&[("seen.md", ""), ("full.md", "made elsewhere"), ("directory/x", "1")]).await;
        let root = mount.root.clone();
        mount.find(&root, "seen.md").await.unwrap();
        mount.find(&root, "directory").await.unwrap();
        for name in ["seen.md", "full.md", "directory"] {
            mount.life.lose(NFS_PROGRAM::NFSPROC3_CREATE, loss);
            let made = mount.make(&root, name, exclusive()).await;
            assert_eq!(made, Err(nfsstat3::NFS3ERR_EXIST), "{name} {loss:?}");
        }
        mount.life.lose(NFS_PROGRAM::NFSPROC3_MKDIR, loss);
        assert_eq!(mount.make(&root, "directory", None).await, Err(nfsstat3::NFS3ERR_EXIST));
        mount.life.lose(NFS_PROGRAM::NFSPROC3_RENAME, loss);
        assert_eq!(
            mount.rename(&root, "nothing", "full.md").await,
            Err(nfsstat3::NFS3ERR_NOENT)
        );
        assert_eq!(mount.life.content("full.md").unwrap(), b"made elsewhere");
    }
}

#[tokio::test]
async fn an_open_for_append_whose_reply_was_lost_opens_the_file() {
    for loss in [Loss::Before, Loss::After] {
        let mut mount = Mount::of(&[("log.md", "lines")]).await;
        let root = mount.root.clone();
        for name in ["log.md", "fresh.md"] {
            mount.life.lose(NFS_PROGRAM::NFSPROC3_CREATE, loss);
            let how = Some(createhow3::UNCHECKED(sized(None)));
            let opened = mount.make(&root, name, how).await.unwrap();
            assert_eq!(mount.find(&root, name).await, Ok(opened), "{name} {loss:?}");
        }
        assert_eq!(mount.life.content("log.md").unwrap(), b"lines");
    }
}

#[tokio::test]
async fn calls_that_come_while_there_is_no_server_are_carried_out_by_the_next_one() {
    let mut mount = Mount::of(&[("a.md", "1")]).await;
    let root = mount.root.clone();
    let file = mount.find(&root, "a.md").await.unwrap();
    mount.handle.hold();
    let life = mount.life.restart().await;
    let data = vec![0x5a; 300_000];
    let arguments = WRITE3args {
        file: file.handle.clone(),
        offset: 0,
        count: data.len() as u32,
        stable: stable_how::FILE_SYNC,
        data: Opaque::borrowed(&data),
    };
    mount
        .kernel
        .send(&nfs(1000, NFS_PROGRAM::NFSPROC3_WRITE, &arguments))
        .await;
    while mount.handle.in_flight() == 0 {
        tokio::task::yield_now().await;
    }
    mount.handle.set_upstream(life.address);
    mount.handle.release();
    assert_eq!(status_of(&mount.kernel.reply().await), nfsstat3::NFS3_OK);
    assert!(life.content("a.md").unwrap() == data);
}

#[tokio::test]
async fn a_handle_that_went_stale_in_the_server_is_looked_up_again() {
    let mut mount = Mount::of(&[("a.md", "1")]).await;
    let root = mount.root.clone();
    let file = mount.find(&root, "a.md").await.unwrap();
    mount.life.lose(NFS_PROGRAM::NFSPROC3_GETATTR, Loss::Stale);
    assert_eq!(mount.number(&file.handle).await, Ok(file.number));
    mount.life.lose(NFS_PROGRAM::NFSPROC3_LOOKUP, Loss::Stale);
    assert_eq!(mount.find(&root, "a.md").await, Ok(file));
}
