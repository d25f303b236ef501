//! Which calls run when, on which path, and how often.

use std::collections::BTreeSet;

use nfs3_types::nfs3::*;

use super::super::*;
use super::*;

#[tokio::test]
async fn a_blocked_call_does_not_delay_others_and_replies_come_as_they_are_done() {
    let mut rig = Rig::start().await;
    rig.kernel.send(&getattr(1, "slow")).await;
    let slow = rig.server.call().await;
    for xid in 2..20 {
        let reply = rig.round_trip(&getattr(xid, "fast"), nfsstat3::NFS3_OK).await;
        assert_eq!(xid_of(&reply), xid);
    }
    assert_eq!(rig.handle.in_flight(), 1);
    assert_eq!(rig.handle.paths(), 2, "idle paths are used again");
    rig.until("the call counts as stuck", |handle| {
        handle.stuck(Duration::from_millis(20)) == 1
    })
    .await;
    assert!(rig.handle.oldest() >= Some(Duration::from_millis(20)));
    slow.reply(&ok(&slow.record)).await;
    assert_eq!(xid_of(&rig.kernel.reply().await), 1);
    assert_eq!((rig.handle.in_flight(), rig.handle.oldest()), (0, None));
}

#[tokio::test]
async fn paths_are_bounded_and_what_waits_is_served_in_order() {
    let mut rig = Rig::start().await;
    rig.handle.0.limit_paths(3);
    for xid in 1..=20 {
        rig.kernel.send(&getattr(xid, "file")).await;
    }
    rig.until("all calls are here", |handle| handle.in_flight() == 20).await;
    assert_eq!(rig.handle.paths(), 3);
    let mut order = Vec::new();
    for left in (0..20).rev() {
        let call = rig.server.call().await;
        order.push(xid_of(&call.record));
        call.reply(&ok(&call.record)).await;
        rig.kernel.reply().await;
        rig.until("one less", |handle| handle.in_flight() <= left).await;
    }
    assert_eq!(order[3..], (4..=20).collect::<Vec<_>>());
    assert_eq!(rig.handle.paths(), 3);
}

#[tokio::test]
async fn surplus_idle_paths_are_closed_after_a_while() {
    let mut rig = Rig::start().await;
    let mut calls = Vec::new();
    for xid in 1..=10 {
        rig.kernel.send(&getattr(xid, "file")).await;
        calls.push(rig.server.call().await);
    }
    for call in &calls {
        call.reply(&ok(&call.record)).await;
        rig.kernel.reply().await;
    }
    assert_eq!(rig.handle.paths(), 10);
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(60)).await;
    tokio::time::resume();
    rig.until("surplus paths are closed", |handle| handle.paths() == 2)
        .await;
    rig.round_trip(&getattr(11, "file"), nfsstat3::NFS3_OK).await;
}

#[tokio::test]
async fn writes_of_one_file_keep_their_order_and_do_not_delay_those_of_another() {
    let mut rig = Rig::start().await;
    for xid in 1..=3 {
        rig.kernel.send(&write(xid, "a", b"data")).await;
    }
    rig.kernel.send(&write(10, "b", b"data")).await;
    rig.kernel.send(&getattr(11, "a")).await;
    rig.until("all are here", |handle| handle.in_flight() == 5).await;
    let mut first = Vec::new();
    for _ in 0..3 {
        first.push(rig.server.call().await);
    }
    let xids: BTreeSet<u32> = first.iter().map(|call| xid_of(&call.record)).collect();
    assert_eq!(xids, BTreeSet::from([1, 10, 11]));
    assert!(rig.server.no_call_waits());
    let mut current = first.swap_remove(first.iter().position(|call| xid_of(&call.record) == 1).unwrap());
    for next in 2..=3 {
        current.reply(&ok(&current.record)).await;
        current = rig.server.call().await;
        assert_eq!(xid_of(&current.record), next);
    }
}

#[tokio::test]
async fn changes_in_one_directory_keep_their_order() {
    let mut rig = Rig::start().await;
    let rename = RENAME3args {
        from: at("dir", "a"),
        to: at("other", "b"),
    };
    rig.kernel.send(&nfs(1, NFS_PROGRAM::NFSPROC3_RENAME, &rename)).await;
    let renaming = rig.server.call().await;
    rig.kernel.send(&create(2, "a", createhow3::GUARDED(sized(None)))).await;
    rig.kernel.send(&remove(3, "other", "c")).await;
    rig.kernel.send(&lookup(4, "dir", "d")).await;
    let reading = rig.server.call().await;
    assert_eq!(xid_of(&reading.record), 4, "a LOOKUP does not wait");
    rig.until("all are here", |handle| handle.in_flight() == 4).await;
    assert!(rig.server.no_call_waits());
    renaming.reply(&ok(&renaming.record)).await;
    let both = [rig.server.call().await, rig.server.call().await].map(|call| xid_of(&call.record));
    assert_eq!(BTreeSet::from(both), BTreeSet::from([2, 3]));
}

#[tokio::test]
async fn a_call_sent_again_is_executed_once() {
    let mut rig = Rig::start().await;
    rig.kernel.send(&remove(1, "dir", "x")).await;
    let call = rig.server.call().await;
    // The connection breaks and the kernel sends the call on a new one.
    let mut again = Kernel::connect(rig.port).await;
    again.send(&remove(1, "dir", "x")).await;
    again.send(&getattr(2, "marker")).await;
    let marker = rig.server.call().await;
    assert_eq!(
        procedure_of(&marker.record),
        NFS_PROGRAM::NFSPROC3_GETATTR,
        "the first is still under way"
    );
    call.reply(&ok(&call.record)).await;
    assert_eq!(
        xid_of(&again.reply().await),
        1,
        "the reply goes where the call came from last"
    );
    // And once more after it is over.
    again.send(&remove(1, "dir", "x")).await;
    let reply = again.reply().await;
    assert_eq!((xid_of(&reply), status_of(&reply)), (1, nfsstat3::NFS3_OK));
    // The same id with other arguments is another call.
    again.send(&remove(1, "dir", "y")).await;
    assert_eq!(
        procedure_of(&rig.server.call().await.record),
        NFS_PROGRAM::NFSPROC3_REMOVE
    );
}
