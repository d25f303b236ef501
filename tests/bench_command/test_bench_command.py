"""`tenant-init bench`: what it measures, what it says, and that nothing of it stays."""

import json
import signal
import subprocess

import pytest

from lib import mounts
from lib.wait import wait_until

FILES = {"create", "first_read", "first_read_bucket", "reread", "stat", "replace", "append", "list", "rename", "rename_new",
         "delete", "delete_new"}
MANY = {"burst_write", "burst_store", "mix", "scan_cold", "scan_warm"}
EVENTS = {"event_create", "event_change", "event_delete"}
NOTES = {"note_write", "note_read", "note_search", "note_edit", "note_move", "note_delete"}


@pytest.fixture(scope="module")
def whole(bench):
    """A run of everything with as few samples as there can be."""
    done = bench.run("--json", "--samples", "1")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def test_everything_is_measured_or_named_with_its_reason(whole):
    result, _ = whole
    measured = {measure["name"]: measure for measure in result["measures"]}
    skipped = {skipped["name"]: skipped["reason"] for skipped in result["skipped"]}
    assert FILES | MANY <= set(measured), skipped
    assert set(measured) | set(skipped) == FILES | MANY | EVENTS | NOTES
    assert not set(measured) & set(skipped)
    assert all("not basic-memory" in skipped[name] for name in NOTES)
    assert all("event" in skipped[name] for name in EVENTS & set(skipped))
    for name, measure in measured.items():
        for side in ("mount", "local"):
            times = measure[side]
            if times is None:
                assert side == "local" and name in EVENTS | {"burst_store"}
                continue
            assert 0 < times["low_ms"] <= times["median_ms"] <= times["high_ms"] <= times["p99_ms"], (name, side)
            assert times["median_ms"] <= times["p95_ms"] <= times["p99_ms"] and times["samples"] >= 1
        if measure["local"]:
            assert measure["ratio"] == pytest.approx(measure["mount"]["median_ms"] / measure["local"]["median_ms"])


def test_what_is_in_the_result_says_what_the_numbers_depend_on(whole):
    result, _ = whole
    assert result["mount"] in ("nfs", "fuse.rclone") and result["local"]
    machine = result["machine"]
    assert machine["cpus"] >= 1 and machine["memory_mb"] > 0 and machine["kernel"]
    assert result["version"] == 1 and result["samples"] == 1 and result["at"].endswith("Z")


def test_progress_comes_on_stderr_in_plain_lines(whole):
    _, progress = whole
    assert "\x1b" not in progress and "\r" not in progress
    assert any(line.startswith("create: mount ") and "local disk" in line for line in progress.splitlines())


def test_nothing_is_left_after_a_whole_run(whole, bench):
    bench.assert_untouched()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("part", ["files", "scan"])
def test_nothing_is_left_after_a_signal(bench, number, part):
    process = bench.spawn("--only", part, "--samples", "2000")
    wait_until(lambda: any(path.rglob("*.md") for path in bench.ours()), 30, process.stderr)
    process.signal(number)
    assert process.process.wait(60) == 128 + number, process.stderr()
    assert "removing what was made" in process.stderr()
    bench.assert_untouched()


def test_without_the_buckets_key_it_is_said_what_that_costs(bench):
    without = {name: value for name, value in bench.tenant.env.items() if name not in bench.s3.env()}
    argv = [bench.tenant.program, "bench", "--local", bench.local, "--only", "events", "--json"]
    done = subprocess.run(argv, env=without, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert {skipped["name"] for skipped in result["skipped"]} == EVENTS and result["measures"] == []
    assert all("no credentials for the bucket: " in skipped["reason"] for skipped in result["skipped"])
    bench.assert_untouched()


def test_an_earlier_result_is_compared_with(bench, tmp_path):
    earlier = tmp_path / "earlier.json"
    done = bench.run("--only", "files", "--samples", "6", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    for measure in result["measures"]:
        # Far beyond what noise on a machine that runs tests can do.
        factor = {"create": 1e-6, "stat": 1e6}.get(measure["name"], 1)
        measure["mount"].update({key: value * factor for key, value in measure["mount"].items() if key.endswith("_ms")})
    result["measures"].append({"name": "of_another_version", "mount": None})
    earlier.write_text(json.dumps(result))

    now = json.loads(bench.run("--only", "files", "--samples", "6", "--json", "--compare", earlier).stdout)
    comparison = now["comparison"]
    assert "create" in comparison["slower"] and "stat" in comparison["faster"]
    assert {change["name"] for change in comparison["changes"]} == FILES
    assert comparison["missing"] == []

    done = bench.run("--only", "files", "--samples", "3", "--compare", earlier)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert any(line.split()[0] == "create" and line.endswith("SLOWER") for line in lines if line.split()), done.stdout


@pytest.mark.parametrize("arguments, words", [
    (["--samples", "0"], "--samples"),
    (["--only", "dreams"], "dreams"),
    (["--compare", "/nonexistent.json"], "/nonexistent.json: No such file"),
    (["--compare", __file__], "not a result of `tenant-init bench --json`"),
    (["--mount", "/nonexistent"], "--mount /nonexistent: not a mount"),
    (["--mount", "{local}"], "not a mount"),
    (["--local", "/nonexistent"], "--local /nonexistent: No such file"),
    (["--local", __file__], "not a directory"),
    (["--local", "{mount}"], "lies on the mount"),
    (["--local", "{mount}/work"], "lies on the mount"),
])
def test_a_command_line_that_cannot_be_meant_is_64(bench, arguments, words):
    places = {"mount": bench.tenant.mount, "local": bench.local}
    arguments = [argument.format(**places) for argument in arguments]
    argv = [bench.tenant.program, "bench", *arguments]
    done = subprocess.run(argv, env=bench.tenant.env, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (64, ""), done.stderr
    assert words in done.stderr
    bench.assert_untouched()


def test_no_tenant_is_69_and_says_what_to_look_at(make_tenant, s3_server):
    tenant = make_tenant(s3_server)
    done = subprocess.run([tenant.program, "bench"], env=tenant.env, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (69, "")
    assert "is not a mount: is the tenant running on this machine?" in done.stderr


def test_a_local_disk_without_room_is_71(bench, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "small", small], check=True)
    try:
        done = bench.run(local=small)
    finally:
        mounts.detach_below(tmp_path)
    assert (done.returncode, done.stdout) == (71, "")
    assert "not enough room" in done.stderr and str(small) in done.stderr
    bench.assert_untouched()


def test_a_user_who_may_not_write_is_71_and_told_who_may(bench):
    bench.local.chmod(0o777)
    user = ["setpriv", "--reuid", "daemon", "--regid", "daemon", "--clear-groups"]
    done = bench.run("--only", "files", prefix=user)
    assert (done.returncode, done.stdout) == (71, ""), done.stderr
    assert "run it as root, or as the user of the app" in done.stderr
    bench.assert_untouched()
