//! What goes through unchanged, and what does not.

use nfs3_types::nfs3::*;
use nfs3_types::xdr_codec::{Opaque, Unpack};
use tokio::time::timeout;

use super::super::record::{MARK, set_mark};
use super::*;

#[tokio::test]
async fn calls_and_replies_pass_byte_for_byte() {
    let mut rig = Rig::start().await;
    let data = vec![0xa5; 300_000];
    let calls = [
        getattr(1, "file"),
        write(2, "file", &data),
        call(3, 100_005, 1, &Opaque::borrowed(b"/export")),
        call(4, 100_227, 0, &0_u32),
        create(5, "new", createhow3::GUARDED(sized(None))),
        create(6, "truncated", createhow3::UNCHECKED(sized(Some(0)))),
    ];
    for sent in &calls {
        rig.kernel.send(sent).await;
        let call = rig.server.call().await;
        assert!(call.record == *sent, "call {} was changed", xid_of(sent));
        let reply = answer(sent, nfsstat3::NFS3_OK, &data);
        call.reply(&reply).await;
        assert!(rig.kernel.reply().await == reply, "reply {} was changed", xid_of(sent));
    }
    let seen: Vec<_> = rig.seen.0.lock().unwrap().iter().map(|(name, _)| *name).collect();
    assert_eq!(seen, ["getattr", "write", "mount", "other", "create", "create"]);
}

#[tokio::test]
async fn an_unchecked_create_without_a_size_becomes_guarded_and_nothing_else_of_it_changes() {
    let mut rig = Rig::start().await;
    for (xid, size) in [(1, None), (2, Some(5))] {
        rig.kernel
            .send(&create(xid, "note.md", createhow3::UNCHECKED(sized(size))))
            .await;
        let call = rig.server.call().await;
        assert_eq!(call.record, create(xid, "note.md", createhow3::GUARDED(sized(size))));
        call.reply(&ok(&call.record)).await;
        assert_eq!(status_of(&rig.kernel.reply().await), nfsstat3::NFS3_OK);
    }
}

#[tokio::test]
async fn a_file_that_is_emptied_is_not_given_a_time_besides() {
    use set_mtime::{DONT_CHANGE, SET_TO_CLIENT_TIME, SET_TO_SERVER_TIME};
    let mut rig = Rig::start().await;
    let time = SET_TO_CLIENT_TIME(nfstime3::default());
    let calls = [
        (Some(0), SET_TO_SERVER_TIME, DONT_CHANGE),
        (Some(7), SET_TO_SERVER_TIME, DONT_CHANGE),
        (None, SET_TO_SERVER_TIME, SET_TO_SERVER_TIME),
        (Some(0), time, time),
        (Some(0), DONT_CHANGE, DONT_CHANGE),
    ];
    for (xid, (size, sent, wanted)) in (1..).zip(calls) {
        rig.kernel.send(&setattr(xid, "note.md", size, sent)).await;
        let call = rig.server.call().await;
        assert_eq!(call.record, setattr(xid, "note.md", size, wanted));
        call.reply(&ok(&call.record)).await;
        assert_eq!(status_of(&rig.kernel.reply().await), nfsstat3::NFS3_OK);
    }
}

#[tokio::test]
async fn a_create_that_can_not_be_parsed_never_passes() {
    let mut rig = Rig::start().await;
    let whole = create(1, "note.md", createhow3::UNCHECKED(sized(None)));
    let mut cut = whole[..whole.len() - 4].to_vec();
    set_mark(&mut cut);
    let mut longer = whole.clone();
    longer.extend_from_slice(&[0; 4]);
    set_mark(&mut longer);
    let mut mode = whole.clone();
    let at = mode.len() - 7 * 4;
    mode[at + 3] = 9;
    for call in [cut, longer, mode] {
        rig.kernel.send(&call).await;
        let reply = rig.kernel.reply().await;
        assert_eq!(reply[MARK + 5 * 4..], [0, 0, 0, 4], "GARBAGE_ARGS");
    }
    let mut version = whole.clone();
    version[23] = 4;
    rig.kernel.send(&version).await;
    assert_eq!(
        rig.kernel.reply().await[MARK + 5 * 4..],
        [0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 3],
        "PROG_MISMATCH"
    );
    assert!(rig.server.no_call_waits());
}

#[tokio::test]
async fn an_exclusive_create_is_answered_as_rclone_would() {
    let mut rig = Rig::start().await;
    rig.kernel
        .send(&create(1, "lock", createhow3::EXCLUSIVE(createverf3([7; 8]))))
        .await;
    let reply = rig.kernel.reply().await;
    assert_eq!(status_of(&reply), nfsstat3::NFS3ERR_NOTSUPP);
    assert!(rig.server.no_call_waits());
}

#[tokio::test]
async fn an_unmount_does_not_reach_rclone() {
    let mut rig = Rig::start().await;
    rig.kernel.send(&call(1, 100_005, 3, &Opaque::borrowed(b"/"))).await;
    assert_eq!(rig.kernel.reply().await[MARK + 5 * 4..], [0, 0, 0, 0], "success");
    assert!(rig.server.no_call_waits());
}

#[tokio::test]
async fn a_record_that_is_no_call_ends_the_connection_and_no_other() {
    let mut rig = Rig::start().await;
    let mut other = Kernel::connect(rig.port).await;
    other.send(&[0x80, 0, 0, 4, 1, 2, 3, 4]).await;
    assert_eq!(timeout(DEADLINE, other.try_reply()).await.unwrap(), None);
    let mut other = Kernel::connect(rig.port).await;
    other.send(&[0xff, 0xff, 0xff, 0xff, 0]).await;
    assert_eq!(timeout(DEADLINE, other.try_reply()).await.unwrap(), None);
    assert_eq!(
        status_of(&rig.round_trip(&getattr(1, "file"), nfsstat3::NFS3_OK).await),
        nfsstat3::NFS3_OK
    );
}

#[tokio::test]
async fn a_reply_that_makes_no_sense_is_passed_on() {
    let mut rig = Rig::start().await;
    rig.kernel.send(&call(1, 100_227, 0, &0_u32)).await;
    let call = rig.server.call().await;
    // rclone's server: PROG_MISMATCH, without the versions.
    let mut odd = ok(&call.record)[..MARK + 6 * 4].to_vec();
    odd[MARK + 5 * 4 + 3] = 2;
    set_mark(&mut odd);
    call.reply(&odd).await;
    assert_eq!(rig.kernel.reply().await, odd);
    assert_eq!(
        rig.seen.0.lock().unwrap().last(),
        Some(&("other", Some("PROG_MISMATCH")))
    );
}

/// The server's reply to a LOOKUP of a file of 9 bytes.
fn found(to: &[u8]) -> Vec<u8> {
    let directory = fattr3 {
        type_: ftype3::NF3DIR,
        ..file(0)
    };
    let mut results = Vec::new();
    calls::pack(&handle("the-file"), &mut results);
    calls::pack(&post_op_attr::Some(file(9)), &mut results);
    calls::pack(&post_op_attr::Some(directory), &mut results);
    answer(to, nfsstat3::NFS3_OK, &results)
}

#[tokio::test]
async fn exist_goes_back_to_the_kernel_that_will_look_the_file_up() {
    let mut rig = Rig::start().await;
    let reply = rig
        .round_trip(
            &create(1, "x", createhow3::UNCHECKED(sized(None))),
            nfsstat3::NFS3ERR_EXIST,
        )
        .await;
    assert_eq!(status_of(&reply), nfsstat3::NFS3ERR_EXIST);
    assert!(rig.server.no_call_waits());
}

#[tokio::test]
async fn a_file_that_the_kernel_holds_for_absent_is_opened_as_it_is() {
    for learn in [lookup(1, "dir", "x"), remove(1, "dir", "x")] {
        let mut rig = Rig::start().await;
        rig.round_trip(&learn, nfsstat3::NFS3ERR_NOENT).await;
        rig.kernel
            .send(&create(2, "x", createhow3::UNCHECKED(sized(None))))
            .await;
        let call = rig.server.call().await;
        call.reply(&answer(&call.record, nfsstat3::NFS3ERR_EXIST, &[0; 8]))
            .await;
        let call = rig.server.call().await;
        assert_eq!(call.record, lookup(2, "dir", "x"));
        call.reply(&found(&call.record)).await;

        let reply = rig.kernel.reply().await;
        let (result, _) = CREATE3res::unpack(&mut &reply[MARK + 6 * 4..]).unwrap();
        let created = result.unwrap();
        assert_eq!(created.obj, Nfs3Option::Some(handle("the-file")));
        let attributes = created.obj_attributes.unwrap();
        assert_eq!(
            (attributes.size, attributes.mode),
            (9, 0o600),
            "the file's own, not the call's"
        );
        assert_eq!(rig.seen.0.lock().unwrap().last(), Some(&("create", None)));
    }
}

#[tokio::test]
async fn an_exclusive_open_still_fails_on_a_file_held_for_absent() {
    let mut rig = Rig::start().await;
    rig.round_trip(&lookup(1, "dir", "x"), nfsstat3::NFS3ERR_NOENT).await;
    let reply = rig
        .round_trip(
            &create(2, "x", createhow3::GUARDED(sized(None))),
            nfsstat3::NFS3ERR_EXIST,
        )
        .await;
    assert_eq!(status_of(&reply), nfsstat3::NFS3ERR_EXIST);
}

#[tokio::test]
async fn exist_stays_where_the_lookup_finds_no_regular_file() {
    let mut rig = Rig::start().await;
    rig.round_trip(&lookup(1, "dir", "x"), nfsstat3::NFS3ERR_NOENT).await;
    rig.kernel
        .send(&create(2, "x", createhow3::UNCHECKED(sized(None))))
        .await;
    let call = rig.server.call().await;
    call.reply(&answer(&call.record, nfsstat3::NFS3ERR_EXIST, &[0; 8]))
        .await;
    let call = rig.server.call().await;
    call.reply(&answer(&call.record, nfsstat3::NFS3ERR_NOENT, &[0; 4]))
        .await;
    assert_eq!(status_of(&rig.kernel.reply().await), nfsstat3::NFS3ERR_EXIST);
}
