"""`tenant-init mount`: the tenant's files on somebody's computer."""

import json
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from lib.index import lease
from lib.local import NOBODY
from lib.tenant import cmdline, descendants, send
from lib.wait import wait_until


def stored(s3, name, text):
    wait_until(lambda: s3.read(name) == text, 20, lambda: f"{name} in the bucket: {s3.objects()}")


@pytest.mark.parametrize("user", [NOBODY, None], ids=["user", "root"])
def test_files_go_both_ways_and_a_stop_stores_unmounts_and_says_so(make_mount, s3_server, user):
    s3_server.put("theirs.md", "from the bucket")
    local = make_mount(s3_server, user=user).start().wait_ready()
    assert local.read("theirs.md") == "from the bucket"
    local.write("mine.md", "from here")
    stored(s3_server, "mine.md", "from here")
    s3_server.put("later.md", "made elsewhere")
    wait_until(lambda: local.read("later.md") == "made elsewhere", 20)
    who = user or 0
    assert local.sh('stat -c "%u %g %a" "$M/mine.md"') == f"{who} {who} 600\n", "nobody else may read it"
    local.write("last.md", "written right before the end")
    ended = local.stop(signal.SIGINT)
    assert ended.code == 0, local.log()
    assert ended.last_line == f"everything is stored, and {local.mount} is unmounted"
    assert ended.verdict["stored"] is True
    assert s3_server.read("last.md") == "written right before the end"
    assert local.mounts() == []
    assert local.mount.stat().st_mode & 0o200, "the directory can be written again"


def test_after_a_kill_of_everything_the_next_start_sends_what_was_left(make_mount, s3_server):
    env = {"TENANT_INIT_MOUNT__WRITE_BACK": "30s"}
    local = make_mount(s3_server, env=env).start().wait_ready()
    local.write("unsent.md", "not sent yet")
    local.kill()
    assert "unsent.md" not in s3_server.objects()
    again = make_mount(s3_server).start().wait_ready()
    assert again.read("unsent.md") == "not sent yet"
    stored(s3_server, "unsent.md", "not sent yet")
    assert again.stop().code == 0
    assert again.mounts() == []


def test_a_killed_supervisor_is_followed_by_one_that_stores_what_it_left(make_mount, s3_server):
    local = make_mount(s3_server, env={"TENANT_INIT_MOUNT__WRITE_BACK": "30s"}).start().wait_ready()
    local.write("left.md", "by a dead supervisor")
    os.kill(local.supervisor_pid(), signal.SIGKILL)
    ended = local.wait()
    assert (ended.code, ended.verdict["stored"]) == (137, True), local.log()
    assert s3_server.read("left.md") == "by a dead supervisor"
    assert local.mounts() == []


def test_a_killed_rclone_is_replaced_and_nothing_is_lost(make_mount, s3_server):
    local = make_mount(s3_server, env={"TENANT_INIT_MOUNT__WRITE_BACK": "5s"}).start().wait_ready()
    local.write("mine.md", "from here")
    send(signal.SIGKILL, mounter(local))
    local.says("is being mounted again")
    wait_until(lambda: local.read("mine.md") == "from here", 20)
    assert local.stop().code == 0
    assert s3_server.read("mine.md") == "from here"


@pytest.mark.parametrize("user", [NOBODY, None], ids=["user", "root"])
def test_read_only_refuses_writes_and_changes_nothing_in_the_bucket(make_mount, s3_server, user):
    s3_server.put("theirs.md", "from the bucket")
    local = make_mount(s3_server, user=user, arguments=["--read-only"]).start().wait_ready()
    assert "read-only" in local.log()
    assert local.read("theirs.md") == "from the bucket"
    for attempt in ('echo x > "$M/new.md"', 'echo x >> "$M/theirs.md"', 'rm "$M/theirs.md"', 'mkdir "$M/folder"'):
        with pytest.raises(AssertionError, match="Read-only file system"):
            local.sh(attempt)
    s3_server.put("later.md", "made elsewhere")
    wait_until(lambda: local.read("later.md") == "made elsewhere", 20)
    ended = local.stop()
    assert (ended.code, ended.last_line) == (0, f"{local.mount} is unmounted")
    assert sorted(s3_server.objects(own=True)) == ["later.md", "theirs.md"]


def test_read_only_does_not_send_what_another_life_has_left_in_its_cache(make_mount, s3_server):
    local = make_mount(s3_server, env={"TENANT_INIT_MOUNT__WRITE_BACK": "30s"}).start().wait_ready()
    local.write("unsent.md", "not sent yet")
    local.kill()
    ended = make_mount(s3_server, arguments=["--read-only"]).start().wait()
    assert ended.code == 78
    assert s3_server.objects() == {}


def metadata(cache, name):
    return cache / "vfsMeta/tenant/notes" / name


def mounter(local):
    return [pid for pid in descendants(local.process.pid) if b"--vfs-write-back" in cmdline(pid)]


def test_read_only_sends_nothing_when_rclone_was_killed_while_it_described_a_file(make_mount, s3_server):
    s3_server.put("theirs.md", "from the bucket")
    local = make_mount(s3_server, arguments=["--read-only"]).start().wait_ready()
    assert local.read("theirs.md") == "from the bucket"
    supervisor = [local.supervisor_pid()]
    send(signal.SIGSTOP, supervisor)
    send(signal.SIGKILL, mounter(local))
    metadata(local.cache, "theirs.md").write_text("")
    s3_server.put("theirs.md", "made elsewhere")
    send(signal.SIGCONT, supervisor)
    local.says("is being mounted again")
    wait_until(lambda: local.read("theirs.md") == "made elsewhere", 20)
    time.sleep(2)  # longer than mount.write_back
    assert s3_server.read("theirs.md") == "made elsewhere"
    assert local.stop().code == 0
    assert s3_server.read("theirs.md") == "made elsewhere"


def test_read_only_refuses_a_cache_with_names_that_nobody_has_seen_in_the_bucket(make_mount, s3_server):
    local = make_mount(s3_server).start().wait_ready()
    local.write("mine.md", "from here")
    assert local.stop().code == 0
    line = {"name": "mine.md", "wanted": "uploaded", "since": "2026-01-01T00:00:00Z"}
    (local.cache / "ledger-notes.jsonl").write_text(json.dumps(line) + "\n")
    s3_server.put("mine.md", "made elsewhere")
    ended = make_mount(s3_server, arguments=["--read-only"]).start().wait()
    assert ended.code == 78 and "leave mount.cache_dir unset" in ended.last_line
    assert s3_server.read("mine.md") == "made elsewhere"


def in_its_own_place(local):
    del local.env["TENANT_INIT_MOUNT__CACHE_DIR"]
    return local


def test_read_only_starts_again_after_a_crash_in_its_own_cache(make_mount, s3_server):
    s3_server.put("theirs.md", "from the bucket")
    local = in_its_own_place(make_mount(s3_server, arguments=["--read-only"])).start().wait_ready()
    cache = local.folder / ".cache/tenant-init/mount/notes+read-only"
    assert local.read("theirs.md") == "from the bucket"
    local.kill()
    metadata(cache, "theirs.md").write_text("")
    again = in_its_own_place(make_mount(s3_server, arguments=["--read-only"])).start().wait_ready()
    assert again.read("theirs.md") == "from the bucket"
    # The recovery, too, has nothing to store.
    supervisor = [again.supervisor_pid()]
    send(signal.SIGSTOP, supervisor)
    metadata(cache, "theirs.md").write_text("")
    send(signal.SIGKILL, supervisor)
    ended = again.wait()
    assert (ended.code, ended.verdict["stored"]) == (137, True), again.log()
    assert list(s3_server.objects(own=True)) == ["theirs.md"]


def test_the_cache_directory_of_a_tenant_with_a_lease_is_refused(make_mount, s3_server):
    local = make_mount(s3_server)
    local.cache.mkdir(parents=True, exist_ok=True)
    (local.cache / "last-lease.json").write_text('{"database_id":"x","epoch":1}')
    for path in (local.cache, local.cache / "last-lease.json"):
        os.chown(path, NOBODY, NOBODY)
    ended = local.start().wait()
    assert ended.code == 78 and "is the cache directory of a tenant" in ended.last_line


def test_offline_in_plain_words_and_everything_is_sent_afterwards(make_mount, s3_server):
    local = make_mount(s3_server).start().wait_ready()
    local.write("before.md", "online")
    stored(s3_server, "before.md", "online")
    s3_server.kill()
    local.says("your changes are kept here and sent when the connection is back")
    local.write("offline.md", "on the train")
    assert local.read("offline.md") == "on the train"
    s3_server.start()
    local.says("connected again")
    stored(s3_server, "offline.md", "on the train")
    local.says("everything is stored")
    assert local.stop().code == 0


def test_a_second_signal_while_offline_ends_at_once_and_names_what_is_left(make_mount, s3_server):
    local = make_mount(s3_server).start().wait_ready()
    s3_server.kill()
    local.says("offline since")
    local.write("offline.md", "on the train")
    local.process.signal(signal.SIGINT)
    local.says("stopping, but offline: 1 file")

    def again():
        # Too soon after the first one it is taken for the same stop, delivered twice.
        if local.process.running():
            local.process.signal(signal.SIGINT)
        return not local.process.running()

    wait_until(again, 20, every=0.5)
    ended = local.wait()
    assert ended.code == 74
    assert "1 file is not in the bucket: offline.md" in local.log()
    assert str(local.cache) in ended.last_line
    assert local.mounts() == []
    s3_server.start()
    again = make_mount(s3_server).start().wait_ready()
    stored(s3_server, "offline.md", "on the train")
    assert again.stop().code == 0


def test_a_closed_terminal_is_a_stop(make_mount, s3_server):
    local = make_mount(s3_server).start().wait_ready()
    local.write("mine.md", "from here")
    local.process.signal(signal.SIGHUP)
    ended = local.stop(signal.SIGHUP)
    assert (ended.code, s3_server.read("mine.md")) == (0, "from here")


def test_a_terminal_closed_after_a_stop_and_a_crash_is_no_second_stop(make_mount, s3_server):
    local = make_mount(s3_server).start().wait_ready()
    s3_server.kill()
    local.says("offline since")
    local.write("offline.md", "on the train")
    local.process.signal(signal.SIGINT)
    local.says("stopping, but offline: 1 file")
    os.kill(local.supervisor_pid(), signal.SIGKILL)
    local.says("what it left is stored and ended")
    local.process.signal(signal.SIGHUP)
    time.sleep(1)
    s3_server.start()
    ended = local.wait()
    assert (ended.code, ended.verdict["stored"]) == (137, True), local.log()
    assert s3_server.read("offline.md") == "on the train"


def test_with_nohup_it_survives_the_terminal(make_mount, s3_server):
    local = make_mount(s3_server).start(prefix=["nohup"]).wait_ready()
    local.process.signal(signal.SIGHUP)
    time.sleep(1)
    local.write("mine.md", "from here")
    stored(s3_server, "mine.md", "from here")
    assert local.stop().code == 0


def test_a_directory_that_cannot_be_used_is_said_clearly(make_mount, s3_server):
    absent = make_mount(s3_server, "absent")
    absent.mount.rmdir()
    ended = absent.start().wait()
    assert (ended.code, ended.last_line) == (78, f"tenant-init: there is no directory {absent.mount}: "
                                                  f"make it first (mkdir {absent.mount})")
    full = make_mount(s3_server, "full")
    (full.mount / "letter.txt").write_text("mine")
    ended = full.start().wait()
    assert ended.code == 71 and "is not empty (letter.txt" in ended.last_line

    local = make_mount(s3_server).start().wait_ready()
    twice = make_mount(s3_server, "other", mount=local.mount)
    with_sudo = make_mount(s3_server, "roots", user=None, mount=local.mount)
    for other in (twice, with_sudo):
        ended = other.start().wait()
        assert ended.code == 71 and f"another tenant-init has mounted {local.mount}" in ended.last_line
        local.write("still.md", "there")
    (local.folder / "second").mkdir()
    os.chown(local.folder / "second", NOBODY, NOBODY)
    same = make_mount(s3_server, "third", mount=local.folder / "second")
    same.env["TENANT_INIT_MOUNT__CACHE_DIR"] = str(local.cache)
    ended = same.start().wait()
    assert ended.code == 71 and "is in use by another tenant-init" in same.log()
    assert not (local.cache / "last-verdict.json").exists(), "the one that lives has not ended"
    assert local.stop().code == 0
    assert s3_server.read("still.md") == "there"


def test_with_sudo_the_files_belong_to_whoever_typed_it(make_mount, s3_server):
    env = {"SUDO_UID": str(NOBODY), "SUDO_GID": str(NOBODY)}
    local = make_mount(s3_server, user=None, env=env).start().wait_ready()
    local.user = NOBODY
    local.write("mine.md", "from here")
    stored(s3_server, "mine.md", "from here")
    assert local.sh('stat -c "%u %a" "$M/mine.md"') == f"{NOBODY} 600\n"
    assert local.stop().code == 0


def test_the_lease_of_the_tenants_machine_is_left_alone(make_mount, make_tenant, s3_server, sqld):
    cloud = make_tenant(s3_server, sqld=sqld).start().wait_ready()
    held = lease(sqld)
    database = {"url": sqld.url}
    local = make_mount(s3_server, index=database).start().wait_ready()
    local.write("mine.md", "from here")
    stored(s3_server, "mine.md", "from here")
    assert local.stop().code == 0
    now = lease(sqld)
    assert (now["epoch"], now["holder"]) == (held["epoch"], held["holder"])
    assert cloud.ready() and cloud.status()["lease"]["held"]
    assert cloud.stop().code == 0


def test_names_of_places_come_from_the_bucket(make_mount, s3_server):
    local = make_mount(s3_server)
    for name in ("CACHE_DIR", "RUN_DIR"):
        del local.env[f"TENANT_INIT_MOUNT__{name}"]
    # There are sockets in it: the path of a test is too long for them.
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="ti-") as runtime:
        os.chown(runtime, NOBODY, NOBODY)
        local.env["XDG_RUNTIME_DIR"] = runtime
        local.start().wait_ready()
        assert (local.folder / ".cache/tenant-init/mount/notes/vfs").is_dir()
        assert (Path(runtime) / "tenant-init-notes").is_dir()
        assert local.stop().code == 0


def test_completions_offer_what_is_for_typing(binary):
    for shell in ("bash", "zsh", "fish"):
        script = subprocess.run([binary, "completions", shell], capture_output=True, text=True, check=True).stdout
        assert "read-only" in script and "supervise" not in script
