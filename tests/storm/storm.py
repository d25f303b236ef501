"""A storm over one tenant: faults by schedule while a writer works, and the comparison of what was promised with what is stored.

The same code drives a tenant on this machine, in a container and in the virtual machine: it finds the processes of a tenant below
the process that it started. After every end of a tenant that says "stored", the bucket is compared with the ledger, and again when
the storm is over and everything was given the time to heal.
"""

import contextlib
import os
import signal
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from lib.faultproxy import FaultProxy
from lib.s3 import S3Server
from lib.tenant import cmdline, descendants
from lib.wait import wait_until

from . import ledger
from .schedule import FAULTS, schedule

READY = 120  # seconds a tenant may take to be ready again when nothing is wrong any more
# Ends that a fault explains: bucket unreachable at a start, not stored, rclone killed before it was ready, restart budget.
EXPLAINED = {69, 71, 74, 75}


# By their words: the command of the app is also among those of guardian and supervisor. Every app of a storm is Python.
PROCESSES = {
    "app": lambda words: words[0].rpartition(b"/")[2].startswith(b"python"),
    "supervisor": lambda words: b"supervise" in words[:2],
    "rclone": lambda words: words[0].endswith(b"rclone") and b"--cache-dir" in words,
}


class Sky:
    """A bucket behind a network that the storm plays with."""

    def __init__(self, folder):
        self.server = S3Server(folder)
        self.proxy = FaultProxy(self.server.port)
        self.faults = Counter()  # of those that last: how many are there now
        self.lock = threading.Lock()

    def start(self):
        self.server.start()
        self.proxy.start()
        return self

    def close(self):
        self.proxy.close()
        self.server.kill()

    def env(self):
        return {**self.server.env(), "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{self.proxy.port}"}

    def contents(self, name):
        """Bytes of the object, or None."""
        try:
            return (self.server.path / name).read_bytes()
        except FileNotFoundError:
            return None

    def clear(self):
        self.proxy.rtt_ms = 0
        self.proxy.ok()
        if not self.server.process.running():
            self.server.start()


@dataclass
class Report:
    """What a storm did and found."""

    seed: object
    steps: list = field(default_factory=list)  # what happened, in words, with the time
    problems: list = field(default_factory=list)
    lives: int = 0  # starts of the tenant
    acknowledged: int = 0
    app_errors: dict = field(default_factory=dict)
    ends: Counter = field(default_factory=Counter)
    slowest_recovery: float = 0.0  # seconds from the end of the last fault to ready
    said: str = ""  # the words of a storm that ran in another machine

    def words(self):
        if self.said:
            return self.said
        kept = [f"seed {self.seed}: {self.acknowledged} acknowledged, {self.lives} starts, ends {dict(self.ends)}, "
                f"errors at the app {self.app_errors}, ready {self.slowest_recovery:.1f} s after the last fault"]
        return "\n".join(kept + [f"  {step}" for step in self.steps] + [f"  PROBLEM: {problem}" for problem in self.problems])


LATE = "bucket's upload arrives late"


class Storm:
    """`make_tenant(env)` gives a new, not started life of the tenant on the same disk, whose app is the writer."""

    faults = FAULTS

    def __init__(self, folder, seed, make_tenant, steps=6):
        self.folder = Path(folder)
        self.seed = seed
        self.plan = schedule(seed, steps, self.faults)
        self.sky = Sky(self.folder)
        self.make_tenant = make_tenant
        self.tenant = None
        self.report = Report(seed)
        self.ledger = self.folder / "ledger" / "ledger.jsonl"
        self.ledger.parent.mkdir(mode=0o777, exist_ok=True)
        self.ledger.parent.chmod(0o777)
        self.began = time.monotonic()
        self.lasting = []  # (end, how to end it)

    def say(self, words):
        self.report.steps.append(f"{time.monotonic() - self.began:6.1f} s  {words}")

    # -- the tenant's processes --

    def below(self, what):
        """The process of the tenant that `what` names, or None."""
        is_it = PROCESSES[what]
        return next((pid for pid in descendants(self.tenant.root_pid()) if is_it(cmdline(pid).split(b"\0"))), None)

    def hit(self, what, number):
        pid = self.below(what)
        if pid is None:
            self.say(f"(there is no {what} at this moment)")
            return None
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        return pid

    # -- lives --

    def launch(self):
        if self.tenant:
            self.tenant.retire()
        self.tenant = self.make_tenant(self.sky.env())
        self.tenant.start()
        self.report.lives += 1

    def ended(self, how):
        """The tenant has ended: checks what it said against the bucket, and starts it again on its disk, as a platform does."""
        # The weather goes on: an outage of two seconds is not one until the deadline of a stop. But a request that arrived between
        # the last look at the bucket and the end would be one of those that `lose_in_flight` loses.
        wait_until(lambda: self.heal(but=LATE) or not self.tenant.running(), 150, lambda: f"{how}: {self.tenant.log()[-2000:]}", every=0.1)
        end = self.tenant.wait(30)
        self.lose_in_flight()
        self.report.ends[end.code] += 1
        stored = bool(end.verdict and end.verdict["stored"])
        said = f"{'stored' if stored else 'not all stored'}, {end.verdict.get('reason')}" if end.verdict else "no verdict"
        self.say(f"{how}: exit {end.code}, {said}")
        if stored:
            self.compare(f"after an end that says stored ({how})")
        return end

    def lose_in_flight(self):
        """A request that arrives after the end of the machine that sent it is another fault: docs/SEMANTICS.md, "Not yet"."""
        self.sky.proxy.lose()

    def expect_running(self):
        """An end that no fault of the schedule asked for must be one that says why, and is followed by a new start."""
        if self.tenant.running():
            return
        end = self.ended("ended by itself")
        if end.code not in EXPLAINED:
            self.report.problems.append(f"ended by itself with {end.code}: {end.last_line}")
        self.launch()

    def compare(self, when):
        story = self.story()
        for difference in ledger.differences(story, self.sky.contents):
            self.report.problems.append(f"{when}: {difference}")

    def story(self):
        lines = self.ledger.read_text(errors="replace").splitlines() if self.ledger.exists() else []
        return ledger.read(lines, fuse="nfs" not in Path("/proc/filesystems").read_text())

    # -- faults --

    def strike(self, step):
        self.say(f"{step.fault}" + (f" for {step.seconds} s" if step.seconds else ""))
        end = getattr(self, "on_" + step.fault.replace("'s ", "_").replace(", ", "_").replace(" ", "_"))(step.seconds)
        if end:
            self.lasting.append((time.monotonic() + step.seconds, step.fault, end))

    def heal(self, everything=False, but=None):
        """Ends the faults whose time is over."""
        for at, name, end in sorted(self.lasting, key=lambda entry: entry[0]):
            if name != but and (everything or at <= time.monotonic()):
                end()
                self.lasting.remove((at, name, end))

    def wait(self, seconds):
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.heal()
            self.expect_running()
            due = min((at for at, _, _ in self.lasting), default=end) - time.monotonic()
            time.sleep(max(0.01, min(left, due, 0.2)))

    def on_rclone_killed(self, _):
        self.hit("rclone", signal.SIGKILL)

    def on_rclone_stopped(self, _):
        pid = self.hit("rclone", signal.SIGSTOP)

        def resume():
            if pid and PROCESSES["rclone"](cmdline(pid).split(b"\0")):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

        return resume

    def on_bucket_refuses(self, _):
        self.sky.proxy.refuse()
        return self.sky.proxy.ok

    def on_bucket_silent(self, _):
        """What is on its way meanwhile arrives afterwards, when its sender has long given it up and sent something newer."""
        self.sky.proxy.silent()
        return self.sky.proxy.ok

    def on_bucket_upload_arrives_late(self, _):
        return self.sky.proxy.hold_next(b"PUT /").deliver

    def on_bucket_answers_503(self, _):
        body = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
        self.sky.proxy.status(503, body)
        return self.sky.proxy.ok

    def on_bucket_answers_500(self, _):
        self.sky.proxy.status(500, b"<?xml version='1.0'?><Error><Code>InternalError</Code></Error>")
        return self.sky.proxy.ok

    def on_bucket_cuts_connections(self, _):
        self.sky.proxy.cut()

    def on_bucket_answer_lost(self, _):
        self.sky.proxy.swallow_next(b"PUT ", count=2)

    def on_bucket_slow(self, _):
        self.sky.proxy.rtt_ms = 400

        def fast():
            self.sky.proxy.rtt_ms = 0

        return fast

    def on_bucket_server_killed(self, _):
        self.sky.server.kill()

        def again():
            if not self.sky.server.process.running():
                self.sky.server.start()

        return again

    def on_app_killed(self, _):
        self.hit("app", signal.SIGKILL)

    def on_supervisor_killed(self, _):
        if self.hit("supervisor", signal.SIGKILL) is not None:
            self.ended("supervisor killed")
            self.launch()

    def on_tenant_stopped_and_started(self, _):
        self.tenant.terminate()
        self.ended("stopped")
        self.launch()

    def on_tenant_stopped_twice(self, _):
        self.tenant.terminate()
        time.sleep(0.4)  # a second signal that comes at once is the same one
        self.tenant.terminate()
        self.ended("stopped twice")
        self.launch()

    def died(self):
        """The machine is dead, and not started again yet."""

    def on_machine_dead_disk_kept(self, _):
        self.tenant.kill()
        self.lose_in_flight()
        self.died()
        self.report.ends["dead"] += 1
        self.launch()

    def on_machine_suspended(self, seconds):
        self.expect_running()
        self.tenant.freeze()
        time.sleep(seconds)
        self.tenant.thaw()

    # -- the whole --

    def begin(self):
        self.sky.start()

    def close(self):
        self.sky.close()

    def run(self):
        """The storm from start to comparison. Problems are in the report, not raised."""
        self.begin()
        try:
            self.launch()
            self.tenant.wait_ready(READY)
            for step in self.plan:
                self.wait(step.pause)
                self.strike(step)
                if not step.overlap:
                    self.wait(step.seconds)
            self.clear_up()
        finally:
            self.heal(everything=True)
            if self.tenant:
                self.tenant.clean_up()
            self.close()
            story = self.story()
            self.report.acknowledged = story.acknowledged
            self.report.app_errors = dict(story.errors)
        return self.report

    def clear_up(self):
        """The weather is fine again: ready by itself, everything uploaded, a clean end, and the bucket is as it must be."""
        self.clear()
        began = time.monotonic()
        # The last fault may not have been noticed yet.
        self.wait(2)
        if self.ready_again():
            self.report.slowest_recovery = time.monotonic() - began
            if not self.wait_working():
                self.report.problems.append("nothing was acknowledged for 30 s after it was ready again")
            self.last_stop()

    def wait_working(self, most=30):
        """Until a few more calls were acknowledged; False when they were not within `most` seconds."""
        wanted, end = self.story().acknowledged + 4, time.monotonic() + most
        while self.story().acknowledged < wanted:
            if time.monotonic() > end:
                return False
            self.wait(0.2)
        return True

    def clear(self):
        self.heal(everything=True)
        self.sky.clear()

    def ready_again(self):
        def ready():
            self.expect_running()
            return self.tenant.ready()

        try:
            wait_until(ready, READY, lambda: f"ready again: {self.tenant.log()[-2000:]}", every=0.1)
        except TimeoutError as error:
            self.report.problems.append(str(error))
            return False
        self.say("ready again")
        return True

    def last_stop(self):
        self.tenant.terminate()
        end = self.ended("stopped at the end")
        if end.code != 0:
            self.report.problems.append(f"the last stop ended with {end.code}: {end.last_line}")
