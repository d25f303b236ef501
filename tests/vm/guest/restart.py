"""rclone is killed, or stands still, under an app at work: the app must not notice more than a pause.

    restart.py SEED KILLS HOW     HOW: `kill`, `hang` (SIGSTOP instead of the last kill), `idle` (no load), `stop` (and
                                  once more killed just before the tenant is stopped), `keys` (not killed: the key is rotated, and
                                  the one before revoked)
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from restart_app import STATIC

from lib.s3 import S3Server
from lib.tenant import Tenant
from lib.wait import wait_until
from vm.guestlib import DISK, emit, sh

seed, kills, how = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
APP = Path(__file__).with_name("restart_app.py")
chance = random.Random(seed)
folder = Path(tempfile.mkdtemp(dir=DISK))
logs = Path(tempfile.mkdtemp())
logs.chmod(0o777)

s3 = S3Server(folder).start()
KEYS = [(s3.key_id, s3.secret)] + [(f"AKIDEXAMPLE{number}", f"SECRETEXAMPLE{number}") for number in range(kills)]
BUNDLE = folder / "bundle.json"
for name, text in STATIC.items():
    s3.put(name, text)
app = ["sleep", "infinity"] if how == "idle" else ["python3", str(APP), str(logs), str(seed)]
source = {"TENANT_INIT_CREDENTIALS__SOURCE": "file", "TENANT_INIT_CREDENTIALS__FILE": str(BUNDLE)}
tenant = Tenant(folder / "tenant", None if how == "keys" else s3, app=app, env={
    **(source if how == "keys" else {}),
    "TENANT_INIT_MOUNT__DRIVER": "nfs", "TENANT_INIT_APP__USER": "app", "TENANT_INIT_LIMITS__RESTART_BUDGET": "100"})


def accept(*keys):
    """The bucket opens for these keys only."""
    s3.stop()
    s3.key_id, s3.secret = keys[0]
    s3.start(*[part for key in keys[1:] for part in ("--auth-key", ",".join(key))])


def bundle(key):
    """The file with the keys has this one."""
    storage = {"bucket": s3.bucket, "endpoint": s3.endpoint, "region": "auto", "access_key_id": key[0], "secret_access_key": key[1]}
    fresh = BUNDLE.with_suffix(".new")
    fresh.touch(0o600)
    fresh.write_text(json.dumps({"version": 1, "tenant_id": None, "storage": storage, "index": None, "expires_at": None}))
    fresh.replace(BUNDLE)


def mount():
    return tenant.status()["services"]["mount"]


def replaced(pid, since):
    """Waits until another rclone serves. Seconds until /readyz said so."""
    wait_until(lambda: tenant.ready() and mount()["pid"] not in (None, pid), 90,
               lambda: f"a new rclone; {tenant.get('/readyz')}\n{tenant.log()[-4000:]}")
    return time.monotonic() - since


def records():
    """What the workers noted: errors, and the last line of each."""
    errors, ends = [], {}
    for path in sorted(logs.glob("*.jsonl")):
        for line in path.read_text().splitlines():
            record = json.loads(line)
            if "error" in record:
                errors.append({"worker": path.stem, **record})
            else:
                ends[path.stem] = record
    return errors, ends


def differences(read, expected):
    wrong = {}
    for name, text in expected.items():
        try:
            found = read(name)
        except OSError as error:
            found = repr(error)
        if found != text:
            wrong[name] = [len(text), len(found), found[:80]]
    return wrong


try:
    if how == "keys":
        # All of them from the start: a server that is started again would be another fault.
        accept(*KEYS)
        bundle(KEYS[0])
    tenant.start().wait_ready(120)
    first_app = tenant.service_pid("app")
    if how == "idle":
        (tenant.mount / "before.md").write_text("before\n")
        kept = open(tenant.mount / "kept.md", "w")
        kept.write("one\n")
    for number in range(kills):
        time.sleep(chance.uniform(0.2, 2.5))
        pid = tenant.service_pid("mount")
        hang = how == "hang" and number == kills - 1
        since = time.monotonic()
        if how == "keys":
            bundle(KEYS[number + 1])
            emit("replaced", hang=False, seconds=replaced(pid, since))
            continue
        os.kill(pid, signal.SIGSTOP if hang else signal.SIGKILL)
        if not hang and chance.random() < 0.2:
            # Once more, while the new one comes up.
            wait_until(lambda: mount()["pid"] not in (None, pid), 30)
            os.kill(mount()["pid"], signal.SIGKILL)
        emit("replaced", hang=hang, seconds=replaced(pid, since))
    time.sleep(3)
    if how == "idle":
        kept.write("two\n")
        kept.close()
        (tenant.mount / "after.md").write_text("after\n")
        with open(tenant.mount / "before.md", "a") as f:
            f.write("and after\n")
        expected = {"before.md": "before\nand after\n", "kept.md": "one\ntwo\n", "after.md": "after\n"}
        errors, ends = [], {}
    else:
        # The load ends, the tenant goes on: the app's children are told, not the app.
        for pid in sh(f"pgrep -P {first_app}").split():
            os.kill(int(pid), signal.SIGTERM)
        wait_until(lambda: len(records()[1]) == 7, 90, lambda: f"the workers end: {records()}")
        errors, ends = records()
        expected = {f"{worker}/{name}": text for worker, end in ends.items() for name, text in end["files"].items()}
    expected |= STATIC
    status = tenant.status()
    sh("echo 3 > /proc/sys/vm/drop_caches")
    wrong = differences(lambda name: (tenant.mount / name).read_text(), expected)
    listed = {str(path.relative_to(tenant.mount)) for path in tenant.mount.rglob("*")
              if path.is_file() and not str(path.relative_to(tenant.mount)).startswith(".tenant-init")}
    emit("app", errors=errors[:20], error_count=len(errors), wrong=wrong, extra=sorted(listed - set(expected)),
         steps={name: end["steps"] for name, end in ends.items()},
         longest={name: round(end["longest"], 2) for name, end in ends.items()})
    emit("services", app=status["services"]["app"], mount=status["services"]["mount"], same_app=first_app)
    if how == "keys":
        # Nothing of the old keys is in use any more.
        accept(KEYS[-1])
        (tenant.mount / "rotated.md").write_text("with the last key\n")
        expected["rotated.md"] = "with the last key\n"
    if how == "stop":
        last = [tenant.mount / f"last-{number}.md" for number in range(20)]
        for path in last:
            path.write_text("last words\n")
            expected[path.name] = "last words\n"
        os.kill(tenant.service_pid("mount"), signal.SIGKILL)
    end = tenant.stop()
    stored = set(s3.objects())
    emit("exit", code=end.code, verdict=end.verdict, mounts=tenant.mounts(),
         wrong=differences(lambda name: s3.read(name), expected), extra=sorted(stored - set(expected)))
finally:
    log = tenant.log()
    print(*[line for line in log.splitlines() if '"level":"DEBUG"' not in line][-60:], sep="\n")
    print(subprocess.run("dmesg | grep -i nfs | tail -20", shell=True, capture_output=True, text=True).stdout)
    tenant.clean_up()
