"""The whole tenant on an NFS mount, in a machine booted from the image: below a small init as on Fly, and as PID 1."""

import json

import pytest

from lib import vm

STEPS = ["read", "search", "edit", "move"]


def objects(folder):
    """Names of the notes in the bucket."""
    bucket = folder / "buckets/notes"
    return {str(path.relative_to(bucket)).lower() for path in bucket.rglob("*.md")}


def verdict(run):
    """The last line that tenant-init wrote on stdout, taken from the console."""
    found = [line[line.index('{"event":"verdict"'):] for line in run.console.splitlines() if '{"event":"verdict"' in line]
    assert found, f"no verdict on the console:\n{run.console[-4000:]}"
    return json.loads(found[-1])


@pytest.mark.timeout(420)
def test_notes_survive_the_machine(tmp_path):
    run = vm.boot(tmp_path, "notes.py", "child", timeout=360).checked()
    assert {r["driver"] for r in run.of("driver")} == {"nfs"}
    assert [(step, run.one(step)["ok"]) for step in STEPS] == [(step, True) for step in STEPS]
    assert run.one("found")["ok"] and run.one("found_by_search")["ok"]
    for end in run.of("exit"):
        assert (end["code"], end["verdict"]["stored"], end["mounts"]) == (0, True, [])
    assert objects(tmp_path) == {"main/done/plan.md"}


@pytest.mark.timeout(600)
def test_notes_survive_with_the_tenant_as_pid_1(tmp_path):
    env = {"BUCKET_NAME": "notes", "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9000", "AWS_REGION": "auto",
           "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "SECRETEXAMPLE",
           "TENANT_INIT_MOUNT__DRIVER": "nfs", "TENANT_INIT_LOG__FORMAT": "text"}
    first = vm.boot(tmp_path, "notes.py", "pid1", "first", pid1=True, env=env, timeout=240).checked()
    assert first.one("pid1")["program"] == "/usr/local/bin/tenant-init"
    assert [(step, first.one(step)["ok"]) for step in STEPS] == [(step, True) for step in STEPS]
    assert (first.pid1_code, verdict(first)["stored"]) == (0, True)
    assert objects(tmp_path) == {"main/done/plan.md"}

    second = vm.boot(tmp_path, "notes.py", "pid1", "second", pid1=True, env=env, timeout=240).checked()
    assert second.one("found")["ok"] and second.one("found_by_search")["ok"]
    assert (second.pid1_code, verdict(second)["stored"]) == (0, True)
