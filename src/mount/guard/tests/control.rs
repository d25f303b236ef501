//! What the handle does, who may connect, and what happens when rclone goes away.

use std::collections::BTreeSet;

use nfs3_types::nfs3::*;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::super::record::MARK;
use super::super::*;
use super::*;

#[tokio::test]
async fn held_calls_wait_and_none_is_lost() {
    let mut rig = Rig::start().await;
    rig.round_trip(&getattr(100, "file"), nfsstat3::NFS3_OK).await;
    rig.handle.hold();
    for xid in 1..=5 {
        rig.kernel.send(&getattr(xid, "file")).await;
    }
    rig.until("all are here", |handle| handle.in_flight() == 5).await;
    assert!(rig.server.no_call_waits());
    rig.handle.release();
    let mut xids = BTreeSet::new();
    for _ in 0..5 {
        let call = rig.server.call().await;
        call.reply(&ok(&call.record)).await;
        xids.insert(xid_of(&rig.kernel.reply().await));
    }
    assert_eq!(xids, BTreeSet::from_iter(1..=5));
}

#[tokio::test]
async fn a_held_mount_takes_no_more_than_its_room() {
    let rig = Rig::start().await;
    rig.handle.hold();
    let record = write(0, "file", &vec![0; 1 << 20]);
    let Rig {
        kernel,
        mut server,
        handle,
        ..
    } = rig;
    let mut writer = kernel.writer;
    let sending = tokio::spawn(async move {
        for xid in 1_u32..=64 {
            let mut record = record.clone();
            record[MARK..MARK + 4].copy_from_slice(&xid.to_be_bytes());
            writer.write_all(&record).await.unwrap();
        }
        writer
    });
    timeout(DEADLINE, async {
        while handle.in_flight() < 15 {
            sleep(Duration::from_millis(2)).await;
        }
    })
    .await
    .unwrap();
    // 16 MiB of room: 15 calls of a MiB with their headers, and no more.
    let left = handle.0.request_room.available_permits();
    assert!(
        left < exchange::permits(1 << 20) as usize,
        "{left} KiB of room are left"
    );
    assert!(!sending.is_finished(), "the kernel has to wait");
    handle.release();
    for _ in 1..=64 {
        let call = server.call().await;
        call.reply(&ok(&call.record)).await;
    }
    timeout(DEADLINE, sending).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_read_only_mount_refuses_what_modifies_and_nothing_else() {
    let mut rig = Rig::start().await;
    let modifying = [
        write(1, "file", b"data"),
        create(2, "x", createhow3::UNCHECKED(sized(None))),
        remove(3, "dir", "x"),
        nfs(
            4,
            NFS_PROGRAM::NFSPROC3_RENAME,
            &RENAME3args {
                from: at("dir", "a"),
                to: at("dir", "b"),
            },
        ),
    ];
    let cases = [
        (ReadOnlyReason::LeaseLost, [nfsstat3::NFS3ERR_ROFS; 4]),
        (ReadOnlyReason::CacheFull, {
            let full = nfsstat3::NFS3ERR_NOSPC;
            [full, full, nfsstat3::NFS3_OK, full]
        }),
    ];
    for (round, (reason, statuses)) in (1..).zip(cases) {
        rig.handle.set_read_only(Some(reason));
        for (call, status) in modifying.iter().zip(statuses) {
            let mut call = call.clone();
            call[MARK] = round;
            if status == nfsstat3::NFS3_OK {
                assert_eq!(status_of(&rig.round_trip(&call, status).await), status);
            } else {
                rig.kernel.send(&call).await;
                assert_eq!(status_of(&rig.kernel.reply().await), status);
            }
        }
        let reply = rig
            .round_trip(&getattr(u32::from(round), "file"), nfsstat3::NFS3_OK)
            .await;
        assert_eq!(status_of(&reply), nfsstat3::NFS3_OK);
    }
    assert_eq!(
        rig.seen.1.lock().unwrap()[..2],
        [("write", "NFS3ERR_ROFS"), ("create", "NFS3ERR_ROFS")]
    );
    rig.handle.set_read_only(None);
    assert_eq!(
        status_of(&rig.round_trip(&write(9, "file", b"x"), nfsstat3::NFS3_OK).await),
        nfsstat3::NFS3_OK
    );
}

#[tokio::test]
async fn a_call_that_waits_is_refused_too_once_the_mount_is_read_only() {
    let mut rig = Rig::start().await;
    rig.kernel.send(&write(1, "file", b"one")).await;
    let first = rig.server.call().await;
    rig.kernel.send(&write(2, "file", b"two")).await;
    rig.until("both are here", |handle| handle.in_flight() == 2).await;
    rig.handle.set_read_only(Some(ReadOnlyReason::LeaseLost));
    first.reply(&ok(&first.record)).await;
    let replies = [rig.kernel.reply().await, rig.kernel.reply().await].map(|reply| (xid_of(&reply), status_of(&reply)));
    let expected = BTreeSet::from([(1, 0), (2, nfsstat3::NFS3ERR_ROFS as u32)]);
    assert_eq!(
        BTreeSet::from(replies.map(|(xid, status)| (xid, status as u32))),
        expected
    );
    assert!(rig.server.no_call_waits());
}

#[tokio::test]
async fn all_calls_fail_once_the_mount_is_given_up() {
    let mut rig = Rig::start().await;
    rig.kernel.send(&getattr(1, "hangs")).await;
    let _hangs = rig.server.call().await;
    rig.handle.hold();
    rig.kernel.send(&write(2, "file", b"one")).await;
    rig.kernel.send(&write(3, "file", b"two")).await;
    rig.until("all are here", |handle| handle.in_flight() == 3).await;
    rig.handle.fail();
    rig.kernel.send(&write(4, "file", b"three")).await;
    let mut failed = BTreeSet::new();
    for _ in 0..4 {
        let reply = rig.kernel.reply().await;
        assert_eq!(status_of(&reply), nfsstat3::NFS3ERR_IO);
        failed.insert(xid_of(&reply));
    }
    assert_eq!(failed, BTreeSet::from([1, 2, 3, 4]));
    rig.until("none waits", |handle| handle.in_flight() == 0).await;
}

#[tokio::test]
async fn calls_survive_the_loss_of_their_connection() {
    let mut rig = Rig::start().await;
    rig.kernel.send(&write(1, "file", b"data")).await;
    rig.server.call().await.hang_up().await;
    let call = rig.server.call().await;
    assert_eq!(call.record, write(1, "file", b"data"));
    call.reply(&ok(&call.record)).await;
    assert_eq!(status_of(&rig.kernel.reply().await), nfsstat3::NFS3_OK);
}

#[tokio::test]
async fn a_remove_that_may_have_been_executed_does_not_report_a_missing_file() {
    let mut rig = Rig::start().await;
    rig.kernel.send(&remove(1, "dir", "x")).await;
    rig.server.call().await.hang_up().await;
    let call = rig.server.call().await;
    call.reply(&answer(&call.record, nfsstat3::NFS3ERR_NOENT, &[0; 8]))
        .await;
    assert_eq!(status_of(&rig.kernel.reply().await), nfsstat3::NFS3_OK);
    // One that was sent once does.
    let reply = rig.round_trip(&remove(2, "dir", "x"), nfsstat3::NFS3ERR_NOENT).await;
    assert_eq!(status_of(&reply), nfsstat3::NFS3ERR_NOENT);
}

#[tokio::test]
async fn a_call_that_keeps_killing_rclone_fails_in_the_end() {
    let mut rig = Rig::start().await;
    rig.kernel.send(&write(1, "poison", b"data")).await;
    for _ in 0..5 {
        rig.server.call().await.hang_up().await;
    }
    assert_eq!(status_of(&rig.kernel.reply().await), nfsstat3::NFS3ERR_IO);
    assert_eq!(rig.handle.in_flight(), 0);
}

#[tokio::test]
async fn calls_wait_for_an_rclone_that_is_not_there_and_go_to_the_one_that_comes() {
    let mut rig = Rig::start().await;
    rig.kernel.send(&getattr(1, "file")).await;
    let call = rig.server.call().await;
    rig.server.accepting.abort();
    call.hang_up().await;
    for xid in 2..=5 {
        rig.kernel.send(&getattr(xid, "file")).await;
    }
    rig.until("all are here", |handle| handle.in_flight() == 5).await;
    rig.until("one path tries", |handle| handle.paths() <= 1).await;
    rig.server = Server::start().await;
    rig.handle.set_upstream(rig.server.address);
    let mut xids = BTreeSet::new();
    for _ in 1..=5 {
        let call = rig.server.call().await;
        call.reply(&ok(&call.record)).await;
        xids.insert(xid_of(&rig.kernel.reply().await));
    }
    assert_eq!(xids, BTreeSet::from_iter(1..=5));
}

#[tokio::test]
async fn a_new_upstream_gets_the_calls_that_the_old_one_has_not_answered() {
    let mut rig = Rig::start().await;
    rig.kernel.send(&getattr(1, "file")).await;
    let _stuck = rig.server.call().await;
    let mut new = Server::start().await;
    rig.handle.set_upstream(new.address);
    let call = new.call().await;
    assert_eq!(call.record, getattr(1, "file"));
    call.reply(&ok(&call.record)).await;
    assert_eq!(xid_of(&rig.kernel.reply().await), 1);
}

#[tokio::test]
async fn shutting_down_ends_everything() {
    let mut rig = Rig::start().await;
    rig.round_trip(&getattr(1, "file"), nfsstat3::NFS3_OK).await;
    rig.handle.shutdown();
    assert_eq!(timeout(DEADLINE, rig.kernel.try_reply()).await.unwrap(), None);
    rig.until("all paths are closed", |handle| handle.paths() == 0).await;
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, rig.port)).await.is_err());
}

#[tokio::test]
async fn only_root_and_the_kernel_are_served() {
    let server = Server::start().await;
    let guard = Guard::bind(Arc::new(Seen::default()), Arc::new(())).await.unwrap();
    let port = guard.port();
    tokio::spawn(guard.run(server.address));
    let answered = async {
        let mut kernel = Kernel::connect(port).await;
        let exclusive = create(1, "x", createhow3::EXCLUSIVE(createverf3::default()));
        let _ = kernel.writer.write_all(&exclusive).await;
        timeout(DEADLINE, kernel.try_reply()).await.unwrap().is_some()
    };
    assert_eq!(answered.await, nix::unistd::geteuid().is_root());
    if nix::unistd::geteuid().is_root() {
        // The same from a process that is not root's: connects, and is hung up on.
        let script = format!("exec 3<>/dev/tcp/127.0.0.1/{port} && ! timeout 20 head -c 1 <&3 | grep -q .");
        let mut command = tokio::process::Command::new("bash");
        let status = command.arg("-c").arg(script).uid(65534).status().await.unwrap();
        assert!(
            status.success(),
            "an unprivileged process was served, or never hung up on"
        );
    }
}
