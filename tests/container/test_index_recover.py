"""The supervisor is killed under basic-memory: notes and index are stored by what follows it, and the lease is given back."""

import os
import signal

import pytest

from lib.tenant import children, cmdline
from lib.wait import wait_until

pytestmark = pytest.mark.timeout(300)


def test_notes_and_index_of_a_killed_supervisor_are_stored(make_indexed_tenant):
    tenant = make_indexed_tenant("killed", lease_ttl="60s")
    machine = tenant.machine().start().wait_ready()
    machine.write("Anchor", "A zebra that is always there.")
    tenant.wait_same(machine)
    tenant.proxy.refuse()
    machine.write("Late", "A note that the database has not heard of.")
    wait_until(lambda: machine.status()["index"]["outbox"] > 0, 30, "something waits in the outbox")
    # write_note answers before the file is written.
    wait_until(lambda: "main/notes/Late.md" in tenant.s3.objects(), 30, "the note is in the bucket")
    [supervisor] = [pid for pid in children(machine.pid()) if b"supervise" in cmdline(pid)]
    os.kill(supervisor, signal.SIGKILL)
    wait_until(lambda: "what it left is stored and ended" in machine.log(), 30, "the recovery runs", every=0.2)
    tenant.proxy.ok()
    end = machine.wait()
    assert (end.code, end.verdict["stored"], end.verdict["index_pending"]) == (137, True, 0), f"{end}\n{machine.log()[-4000:]}"
    tenant.assert_once("Late")
    # Another machine gets the lease at once, and finds the note.
    fresh = tenant.machine().start().wait_ready(40)
    assert fresh.finds("heard", "Late")
