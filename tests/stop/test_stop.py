"""Stop: whatever the app was told is written is in the bucket, or it is named and the exit code says so."""

import os
import signal
import socket
import threading
import time

from lib.wait import wait_until

BURST = 200


def burst(tenant, count=BURST):
    """Writes `count` small files through the mount, as fast as possible; returns name → size."""
    for number in range(count):
        (tenant.mount / f"note-{number:03}.md").write_text(f"# note {number}\n" + "text " * number)
    return {f"note-{n:03}.md": len(f"# note {n}\n") + 5 * n for n in range(count)}


def armed(tenant):
    """Starts it and waits until the app has set its trap and said so: its lines are in the log."""
    tenant.start().wait_ready()
    wait_until(lambda: '"armed"' in tenant.log(), what="the app's line in the log")


def test_a_stop_right_after_a_burst_of_writes_stores_all_of_them(running_tenant, s3_server):
    written = burst(running_tenant)
    time.sleep(0.001)  # not a wait for anything: the issue asks for one millisecond
    ended = running_tenant.stop()
    assert ended.code == 0
    assert s3_server.objects() == written
    assert ended.verdict["stored"] is True
    assert ended.verdict["uploads_pending"] == []
    assert running_tenant.mounts() == []


def test_what_the_app_writes_while_it_is_being_stopped_is_stored(make_tenant, s3_server):
    # Like basic-memory, which answers before the file is written and writes it when it is told to stop.
    late = "for i in 1 2 3; do echo last words > late-\\$i.md; done; exit 0"
    tenant = make_tenant(s3_server, app=["sh", "-c", f'trap "{late}" TERM; echo armed; while :; do sleep 0.1; done'])
    armed(tenant)
    ended = tenant.stop()
    assert ended.code == 0
    assert s3_server.objects() == {f"late-{n}.md": 11 for n in (1, 2, 3)}


def test_a_grandchild_that_goes_on_writing_is_waited_for(make_tenant, s3_server):
    tenant = make_tenant(s3_server, app=["sh", "-c", '(trap "" TERM; echo armed; sleep 1; echo slow > grandchild.md) & wait'])
    armed(tenant)
    assert tenant.stop().code == 0
    assert s3_server.objects() == {"grandchild.md": 5}


def test_int_and_quit_mean_the_same_as_term(make_tenant, s3_server):
    for number in (signal.SIGINT, signal.SIGQUIT):
        tenant = make_tenant(s3_server, name=f"by-{number}").start().wait_ready()
        (tenant.mount / f"{number}.md").write_text("text\n")
        assert tenant.stop(number).code == 0
        assert s3_server.objects()[f"{number}.md"] == 5


def test_what_cannot_be_stored_is_named_and_the_next_start_finishes_it(make_tenant, s3_server):
    env = {"TENANT_INIT_LIMITS__STOP_TIMEOUT": "8s"}
    tenant = make_tenant(s3_server, env=env).start().wait_ready()
    s3_server.kill()
    written = burst(tenant, 5)
    ended = tenant.stop()
    assert ended.code == 74
    assert ended.seconds < 12
    assert ended.verdict["stored"] is False
    assert ended.verdict["uploads_pending"] == sorted(written)
    assert tenant.mounts() == []

    s3_server.start()
    again = make_tenant(s3_server, env=env).start().wait_ready()
    assert "note-004.md" in again.log(), "the next start says what it found"
    wait_until(lambda: s3_server.objects() == written, 30, lambda: f"the rest in the bucket: {s3_server.objects()}")
    assert again.stop().code == 0


def test_a_start_that_fails_at_once_names_what_the_life_before_it_left(make_tenant, s3_server):
    env = {"TENANT_INIT_LIMITS__STOP_TIMEOUT": "5s"}
    tenant = make_tenant(s3_server, env=env).start().wait_ready()
    s3_server.kill()
    written = burst(tenant, 2)
    assert tenant.stop().code == 74
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = "127.0.0.1:%d" % taken.getsockname()[1]
        ended = make_tenant(s3_server, env={**env, "TENANT_INIT_HEALTH__LISTEN": address}).start().wait()
    assert (ended.code, ended.verdict["stored"], ended.verdict["uploads_pending"]) == (71, False, sorted(written))
    s3_server.start()
    assert make_tenant(s3_server, env=env).start().wait_ready().stop().code == 0
    assert s3_server.objects() == written


def test_what_is_left_for_one_bucket_is_not_done_in_another(make_tenant, s3_server):
    others = s3_server.path.parent / "others"
    others.mkdir()
    (others / "note.md").write_text("of another tenant\n")
    tenant = make_tenant(s3_server).start().wait_ready()
    (tenant.mount / "note.md").write_text("old\n")
    wait_until(lambda: s3_server.objects() == {"note.md": 4}, 20)
    (tenant.mount / "unsent.md").write_text("unsent\n")
    (tenant.mount / "note.tmp").write_text("new\n")
    os.replace(tenant.mount / "note.tmp", tenant.mount / "note.md")
    (tenant.mount / "note.md").unlink()
    # Its own log of that reaches it within milliseconds; there is no other sign to wait for.
    wait_until(lambda: '"absent"' in (tenant.cache / "ledger-notes.jsonl").read_text(), 5)
    tenant.kill()
    tenant.clean_up()
    another = make_tenant(s3_server, env={"BUCKET_NAME": "others"}).start().wait_ready()
    assert '"other_bucket"' in another.log() and "1 file(s) of the bucket notes" in another.log()
    (another.mount / "theirs.md").write_text("theirs\n")
    wait_until(lambda: (others / "theirs.md").exists(), 20)
    assert another.stop().code == 0
    assert sorted(path.name for path in others.iterdir() if path.is_file()) == ["note.md", "theirs.md"]
    again = make_tenant(s3_server).start().wait_ready()
    wait_until(lambda: s3_server.objects() == {"unsent.md": 7}, 30, lambda: str(s3_server.objects()))
    assert again.stop().code == 0


def test_files_left_unsent_keep_their_content_when_the_next_life_has_stored_them(make_tenant, s3_server):
    """rclone stores them, and then compares them with the object before: they read as empty, and an append stored that."""
    s3_server.put("notes/old.md", "old\n")
    tenant = make_tenant(s3_server).start().wait_ready()
    expected = {"new.md": "new\n", "notes/old.md": "old\nand longer than it was\n", "notes/fresh.md": "fresh\n", "empty.md": ""}
    for name, text in expected.items():
        (tenant.mount / name).write_text(text)
    tenant.kill()
    tenant.clean_up()
    again = make_tenant(s3_server).start().wait_ready()
    stored = {name: len(text) for name, text in expected.items()}
    wait_until(lambda: s3_server.objects() == stored and again.status()["uploads"]["queued"] == 0, 30,
               lambda: f"all in the bucket: {s3_server.objects()}")
    assert {name: (again.mount / name).read_text() for name in expected} == expected
    for name in expected:
        with open(again.mount / name, "a") as f:
            f.write("appended\n")
        expected[name] += "appended\n"
    assert again.stop().code == 0
    assert {name: s3_server.read(name) for name in s3_server.objects()} == expected


def test_a_second_signal_means_time_is_up(make_tenant, s3_server):
    tenant = make_tenant(s3_server).start().wait_ready()
    s3_server.kill()
    burst(tenant, 3)
    threading.Timer(1.0, lambda: tenant.process.signal(signal.SIGTERM)).start()
    ended = tenant.stop()
    assert ended.code == 74
    assert 0.9 < ended.seconds < 8, "the default deadline is 110 s"
    assert len(ended.verdict["uploads_pending"]) == 3
    assert tenant.mounts() == []


def test_a_stop_during_the_start_ends_cleanly(make_tenant, s3_server):
    tenant = make_tenant(s3_server).start()
    wait_until(lambda: tenant.get("/livez")[0] == 200)
    ended = tenant.stop()
    assert ended.code == 0
    assert ended.seconds < 10
    assert ended.verdict["stored"] is True
    assert tenant.mounts() == []


def test_an_app_that_ignores_term_is_killed_when_its_share_of_the_time_is_over(make_tenant, s3_server):
    app = ["sh", "-c", 'trap "" TERM; echo armed; while :; do sleep 0.2; done']
    tenant = make_tenant(s3_server, app=app, env={"TENANT_INIT_LIMITS__STOP_TIMEOUT": "5s"})
    armed(tenant)
    (tenant.mount / "kept.md").write_text("text\n")
    ended = tenant.stop()
    assert ended.code == 0
    assert 2.5 < ended.seconds < 8
    assert s3_server.objects() == {"kept.md": 5}


def test_a_file_that_the_app_never_closed_is_stored(make_tenant, s3_server):
    # No fsync, no close: the stop syncs the mount and ends the app, and what it had written is in the bucket.
    app = ["sh", "-c", "exec 3> open.md; printf %5000s x >&3; echo armed; sleep infinity"]
    tenant = make_tenant(s3_server, app=app)
    armed(tenant)
    assert tenant.stop().code == 0
    assert s3_server.objects() == {"open.md": 5000}
