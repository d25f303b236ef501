//! The mount against real parts: rclone on FUSE, and an S3 server of its own for each test. Needs root and /dev/fuse.
//! The NFS driver is tested in a virtual machine (`tests/vm`), as this needs a kernel with an NFS client.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs::{self, File};
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::{BUCKET, PATIENCE, World, free_port, mounts, wait};
use tenant_init::credentials::Storage;
use tenant_init::mount::{MountError, NotReady, Pending, Session, Verdict, pending};
use tokio::time::Instant;

fn signal(session: &Session, signal: Signal) {
    kill(Pid::from_raw(session.pid().try_into().unwrap()), signal).unwrap();
}

/// State of each thread of a process (proc_pid_stat(5)).
fn threads(pid: u32) -> Vec<char> {
    let stat = |task: fs::DirEntry| fs::read_to_string(task.path().join("stat")).unwrap();
    let state = |text: String| text.rsplit_once(") ").unwrap().1.chars().next().unwrap();
    fs::read_dir(format!("/proc/{pid}/task"))
        .unwrap()
        .map(|task| state(stat(task.unwrap())))
        .collect()
}

fn deadline() -> Instant {
    Instant::now() + PATIENCE
}

#[tokio::test]
async fn a_burst_of_200_files_is_in_the_bucket_after_the_drain() {
    let mut world = World::new();
    // Nothing may depend on the write-back delay running out by itself.
    world.mount.write_back = Duration::from_secs(600);
    let (claim, session) = world.up().await;
    assert_eq!(
        fs::metadata(world.path()).unwrap().uid(),
        1000,
        "the app's user owns the files"
    );
    for number in 0..200 {
        fs::write(world.path().join(format!("{number}.md")), format!("note {number}\n")).unwrap();
    }
    session.sync(PATIENCE).await.unwrap();
    // The kernel tells rclone of the last close a moment after the program has gone on.
    let until = deadline();
    while session.queue().await.unwrap().items.len() < 200 {
        assert!(Instant::now() < until, "not all files are queued");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(pending::unsent(claim.cache_dir(), BUCKET).unwrap().len(), 200);
    let mut told = Vec::new();
    session.drain(|progress| told.push(progress), deadline()).await.unwrap();
    assert!(
        told.first()
            .is_some_and(|first| first.files == 200 && !first.names.is_empty()),
        "{told:?}"
    );
    session.unmount(PATIENCE).await.unwrap();
    session.terminate(PATIENCE).await;
    assert!(
        !world.mount.run_dir.join("mount/rclone.conf").exists(),
        "the key's file is removed"
    );
    claim.release().await.unwrap();
    let objects = world.objects();
    assert_eq!(objects.len(), 200);
    assert!(objects.contains(&("17.md".to_owned(), "note 17\n".to_owned())));
    assert_eq!(mounts(world.path()), 0);
}

#[tokio::test]
async fn a_killed_life_is_cleared_and_its_writes_arrive() {
    let mut world = World::new();
    world.mount.write_back = Duration::from_secs(600);
    let (claim, session) = world.up().await;
    fs::create_dir(world.path().join("sub")).unwrap();
    fs::write(world.path().join("sub/a b.md"), "acknowledged").unwrap();
    signal(&session, Signal::SIGKILL);
    session.exited().await;
    drop((session, claim));
    assert_eq!(mounts(world.path()), 2, "the dead mount and the barrier under it");
    let left = Pending {
        name: "sub/a b.md".into(),
        bytes: 12,
    };
    assert_eq!(pending::unsent(&world.mount.cache_dir, BUCKET).unwrap(), [left]);

    let (claim, session) = world.up().await;
    let found = claim.cleared().found.join(", ");
    assert_eq!(
        found,
        format!("fuse.rclone from tenant:{BUCKET}, tmpfs from tenant-init")
    );
    assert_eq!(mounts(world.path()), 2);
    assert_eq!(
        fs::read_to_string(world.path().join("sub/a b.md")).unwrap(),
        "acknowledged"
    );
    session.drain(|_| {}, deadline()).await.unwrap();
    assert_eq!(world.objects(), [("sub/a b.md".to_owned(), "acknowledged".to_owned())]);
}

#[tokio::test]
async fn a_kill_right_after_close_loses_nothing() {
    let mut world = World::new();
    world.mount.write_back = Duration::from_secs(600);
    for name in ["overwritten.md", "torn.md", "appended.md"] {
        world.put(name, "what was there before\n");
    }
    let (claim, session) = world.up().await;
    let at = |name: &str| world.path().join(name);
    for name in ["overwritten.md", "torn.md", "new.md", "bare.md"] {
        fs::write(at(name), "acknowledged").unwrap();
    }
    let mut file = File::options().append(true).open(at("appended.md")).unwrap();
    file.write_all(b"acknowledged").unwrap();
    drop(file);
    signal(&session, Signal::SIGKILL);
    session.exited().await;
    drop((session, claim));
    // Which of the files rclone was describing at that moment is luck; these two it was, in both ways there are.
    let metas = world.mount.cache_dir.join("vfsMeta/tenant").join(BUCKET);
    File::create(metas.join("torn.md")).unwrap();
    fs::remove_file(metas.join("bare.md")).unwrap();

    let (_claim, session) = world.up().await;
    assert_eq!(
        fs::read_to_string(at("new.md")).unwrap(),
        "acknowledged",
        "readable before it is sent"
    );
    session.drain(|_| {}, deadline()).await.unwrap();
    let new = "acknowledged";
    let appended = format!("what was there before\n{new}");
    let wanted = [
        ("appended.md", appended.as_str()),
        ("bare.md", new),
        ("new.md", new),
        ("overwritten.md", new),
        ("torn.md", new),
    ];
    assert_eq!(
        world.objects(),
        wanted.map(|(name, content)| (name.to_owned(), content.to_owned()))
    );
}

#[tokio::test]
async fn an_rclone_that_outlived_its_supervisor_is_ended_and_nothing_is_lost() {
    let mut world = World::new();
    world.mount.write_back = Duration::from_secs(600);
    // A runtime that goes away takes the log's reader and the child's owner with it, as a killed supervisor does.
    let world = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (_claim, _session) = world.up().await;
        });
        world
    })
    .join()
    .unwrap();
    let pid = fs::read_to_string(world.mount.cache_dir.join("mounter.pid")).unwrap();
    // Errors make it log; nobody reads that any more.
    for number in 0..20 {
        let socket = world.mount.run_dir.join("mount/rc.sock");
        let call = [
            "-s",
            "--unix-socket",
            socket.to_str().unwrap(),
            "-d",
            "",
            "http://rclone/no/such-call",
        ];
        assert!(
            Command::new("curl").args(call).output().unwrap().status.success(),
            "call {number}"
        );
    }
    fs::write(world.path().join("late.md"), "written without a supervisor").unwrap();
    assert!(
        fs::exists(format!("/proc/{pid}")).unwrap(),
        "rclone goes on without its supervisor"
    );

    let (_claim, session) = world.up().await;
    assert_ne!(session.pid().to_string(), pid);
    assert!(!fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains("rclone")));
    session.drain(|_| {}, deadline()).await.unwrap();
    assert_eq!(
        world.objects(),
        [("late.md".to_owned(), "written without a supervisor".to_owned())]
    );
}

#[tokio::test]
async fn a_wrong_key_is_refused_with_77() {
    let world = World::new();
    let wrong = Storage {
        secret_access_key: "NOTTHEKEY".into(),
        ..world.storage()
    };
    let refusal = world.refusal(wrong, PATIENCE).await;
    assert!(matches!(refusal, NotReady::Rejected { .. }), "{refusal}");
    assert_eq!(refusal.exit().code(), 77);
    assert!(!refusal.to_string().contains("NOTTHEKEY"));
}

#[tokio::test]
async fn a_missing_bucket_is_78() {
    let world = World::new();
    let refusal = world
        .refusal(
            Storage {
                bucket: "absent".into(),
                ..world.storage()
            },
            PATIENCE,
        )
        .await;
    assert!(matches!(refusal, NotReady::BucketMissing { .. }), "{refusal}");
    assert_eq!(refusal.exit().code(), 78);
}

#[tokio::test]
async fn an_endpoint_that_refuses_is_69_at_the_deadline() {
    let world = World::without_storage();
    let refusal = world.refusal(world.storage(), Duration::from_secs(3)).await;
    assert!(matches!(refusal, NotReady::Unreachable { .. }), "{refusal}");
    assert_eq!(refusal.exit().code(), 69);
}

#[tokio::test]
async fn an_endpoint_that_says_nothing_is_69_at_the_deadline() {
    let mut world = World::without_storage();
    let silent = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    world.use_port(silent.local_addr().unwrap().port());
    let start = Instant::now();
    let refusal = world.refusal(world.storage(), Duration::from_secs(3)).await;
    assert!(matches!(refusal, NotReady::Unreachable { .. }), "{refusal}");
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
}

#[tokio::test]
async fn an_rclone_that_ends_at_once_is_reported_with_its_words() {
    let mut world = World::new();
    world.mount.transfers = 0;
    let program = world.temporary("rclone");
    fs::write(&program, "#!/bin/sh\necho 'Fatal error: no luck today' >&2\nexit 3\n").unwrap();
    Command::new("chmod").arg("755").arg(&program).status().unwrap();
    world.mount.rclone = program;
    let refusal = world.refusal(world.storage(), PATIENCE).await;
    assert!(refusal.to_string().contains("no luck today"), "{refusal}");
    assert_eq!(refusal.exit().code(), 71);
}

#[tokio::test]
async fn the_bare_directory_is_never_writable() {
    let world = World::new();
    let claim = world.claim().await.unwrap();
    let write = || fs::write(world.path().join("lost.md"), "x").map_err(|error| error.raw_os_error());
    assert_eq!(write(), Err(Some(libc::EROFS)), "before the mount");
    let session = world.launch(&claim).await;
    session.ready(async { true }, deadline()).await.unwrap();
    assert_eq!(write(), Ok(()), "on the mount");
    session.drain(|_| {}, deadline()).await.unwrap();
    session.unmount(PATIENCE).await.unwrap();
    assert_eq!(write(), Err(Some(libc::EROFS)), "after the mount");
    session.terminate(PATIENCE).await;
    claim.release().await.unwrap();
    assert_eq!(fs::read_dir(world.path()).unwrap().count(), 0);
    assert_eq!(write(), Ok(()), "given back");
}

#[tokio::test]
async fn a_foreign_mount_or_files_on_the_mountpoint_are_refused_with_71() {
    let world = World::new();
    fs::create_dir(world.path()).unwrap();
    fs::write(world.path().join("mine.md"), "").unwrap();
    let error = world.claim().await.unwrap_err();
    assert!(
        error.to_string().contains("mine.md") && error.exit().code() == 71,
        "{error}"
    );
    let tmpfs = Command::new("mount")
        .args(["-t", "tmpfs", "somebody"])
        .arg(world.path())
        .status()
        .unwrap();
    assert!(tmpfs.success());
    let error = world.claim().await.unwrap_err();
    assert!(
        matches!(&error, MountError::Busy { fstype, source_name, .. } if fstype == "tmpfs" && source_name == "somebody")
    );
    assert_eq!(mounts(world.path()), 1, "it is left alone");
}

#[tokio::test]
async fn two_on_one_cache_are_refused() {
    let world = World::new();
    let (_claim, session) = world.up().await;
    let error = world.claim().await.unwrap_err();
    assert!(matches!(error, MountError::CacheLocked { .. }), "{error}");
    assert_eq!(
        session.health(PATIENCE).await.verdict,
        Verdict::Ok,
        "the first one goes on"
    );
}

#[tokio::test]
async fn health_tells_a_hung_mounter_from_a_dead_one() {
    let world = World::new();
    let (_claim, session) = world.up().await;
    let health = session.health(PATIENCE).await;
    assert!(
        health.verdict == Verdict::Ok && health.rc.is_some() && health.statvfs.is_some(),
        "{health:?}"
    );
    signal(&session, Signal::SIGSTOP);
    // Its threads stop one by one.
    wait("rclone has stopped", || {
        threads(session.pid()).iter().all(|state| *state == 'T')
    });
    let first = session.health(Duration::from_millis(300)).await;
    let Verdict::MounterHung { since } = first.verdict else {
        panic!("{first:?}")
    };
    let second = session.health(Duration::from_millis(300)).await;
    assert_eq!(second.verdict, Verdict::MounterHung { since });
    signal(&session, Signal::SIGCONT);
    assert_eq!(session.health(PATIENCE).await.verdict, Verdict::Ok);
    signal(&session, Signal::SIGKILL);
    session.exited().await;
    assert_eq!(session.health(PATIENCE).await.verdict, Verdict::MounterDead);
}

#[tokio::test]
async fn a_drain_without_storage_names_what_is_left_and_a_later_one_stores_it() {
    let mut world = World::new();
    let (_claim, session) = world.up().await;
    world.stop_storage();
    fs::write(world.path().join("a.md"), "kept").unwrap();
    let left = session
        .drain(|_| {}, Instant::now() + Duration::from_secs(2))
        .await
        .unwrap_err();
    assert_eq!(
        left.pending,
        [Pending {
            name: "a.md".into(),
            bytes: 4
        }]
    );
    let until = deadline();
    while !session.queue().await.unwrap().items.iter().all(|item| item.failing) || session.upload_failures() == 0 {
        assert!(Instant::now() < until, "no failed attempt is counted");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    world.start_storage();
    session.expire_queue().await.unwrap();
    session.drain(|_| {}, deadline()).await.unwrap();
    assert_eq!(world.objects(), [("a.md".to_owned(), "kept".to_owned())]);
}

#[tokio::test]
async fn an_open_file_is_not_called_stored() {
    let world = World::new();
    let (_claim, session) = world.up().await;
    let mut file = File::create(world.path().join("open.md")).unwrap();
    file.write_all(b"half").unwrap();
    let left = session
        .drain(|_| {}, Instant::now() + Duration::from_secs(1))
        .await
        .unwrap_err();
    assert_eq!(
        left.pending.iter().map(|file| file.name.as_str()).collect::<Vec<_>>(),
        ["open.md"]
    );
    drop(file);
    session.drain(|_| {}, deadline()).await.unwrap();
    assert_eq!(world.objects(), [("open.md".to_owned(), "half".to_owned())]);
}

#[tokio::test]
async fn a_mount_in_use_is_detached_after_the_patience_is_used_up() {
    let world = World::new();
    let (claim, session) = world.up().await;
    let held = File::open(world.path()).unwrap();
    let cleared = session.unmount(Duration::from_secs(1)).await.unwrap();
    assert!(cleared.detached.is_some_and(|why| why.contains("in use")));
    drop(held);
    session.terminate(PATIENCE).await;
    claim.release().await.unwrap();
    assert_eq!(mounts(world.path()), 0);
}

#[tokio::test]
async fn a_restart_after_a_rotated_key_keeps_unsent_files() {
    let mut world = World::new();
    world.mount.write_back = Duration::from_secs(600);
    let (claim, session) = world.up().await;
    fs::write(world.path().join("a.md"), "before").unwrap();
    session.unmount(PATIENCE).await.unwrap();
    session.terminate(PATIENCE).await;
    // Another endpoint address stands for any changed credential: a new file, the same cache.
    let old = free_port();
    assert_ne!(world.storage().endpoint, format!("http://127.0.0.1:{old}"));
    world.stop_storage();
    world.use_port(old);
    world.start_storage();
    let session = world.launch(&claim).await;
    session.ready(async { true }, deadline()).await.unwrap();
    session.drain(|_| {}, deadline()).await.unwrap();
    assert_eq!(world.objects(), [("a.md".to_owned(), "before".to_owned())]);
}
