"""One writer: two machines of one tenant at the same time, in every order a platform can bring about.

The tests of this module are one tenant's life in order, machine after machine, with a lease of 5 seconds. None waits longer than it
must: every start of a container takes seconds.
"""

import pytest

from lib.wait import wait_until

pytestmark = pytest.mark.timeout(300)


class Line:
    """The machines of a tenant one after the other: `current` holds the lease."""

    def __init__(self, tenant):
        self.tenant = tenant
        self.current = tenant.machine().start().wait_ready()
        self.first_disk = self.current.disk
        self.current.write("Anchor", "A zebra that is always there.")

    def rival(self):
        """A second machine while the first holds the lease: started, and waiting."""
        machine = self.tenant.machine().start()
        wait_until(lambda: "lease_waiting" in machine.reasons(), 60,
                   lambda: f"it waits for the lease: {machine.log()[-2000:]}", every=0.1)
        return machine


@pytest.fixture(scope="module")
def line(tenant):
    return Line(tenant)


def test_a_second_machine_waits_and_takes_over_without_a_loss(tenant, line):
    """A rolling deploy: the new machine starts before the old one stops, which writes until its last moment."""
    old, epoch = line.current, tenant.lease()["epoch"]
    new = line.rival()
    assert new.get("/readyz")[0] == 503
    assert new.status()["services"]["index"]["state"] == "waiting"
    assert new.status()["lease"]["held"] is False
    assert ["\ntenant_lease_held 1.0\n" in old.get("/metrics")[1], "\ntenant_lease_held 0.0\n" in new.get("/metrics")[1]] == [True, True]
    assert new.status()["services"]["app"]["pid"] is None, "no app without the lease"
    assert len(new.events("lease_waiting")) == 1, "said once, not in a loop"
    # The first machine does not notice. Its lease of 5 s is renewed: it must outlive that, and does.
    expires = tenant.lease()["expires_ms"]
    wait_until(lambda: tenant.lease()["expires_ms"] > expires + 5000, 30, "the lease is renewed", every=0.2)
    assert tenant.lease()["epoch"] == epoch
    for number in range(5):
        old.write(f"Late {number}", f"A heron {number}.")
    end = old.stop()
    assert (end.code, end.verdict["stored"], end.verdict["index_pending"]) == (0, True, 0)

    new.wait_ready(60)
    assert len(new.events("lease_taken")) == 1
    assert tenant.lease()["epoch"] == epoch + 1 == new.status()["lease"]["epoch"]
    assert all(new.finds("heron", f"Late {number}") for number in range(5)), "found at once"
    tenant.wait_same(new, words=("heron", "zebra"))
    line.current = new


def test_a_dead_machines_lease_expires(tenant, line):
    dead, epoch = line.current, tenant.lease()["epoch"]
    tenant.wait_same(dead)
    dead.kill()
    assert tenant.lease()["expires_ms"] > 0, "nobody gave it back"
    heir = tenant.machine().start().wait_ready(60)
    assert tenant.lease()["epoch"] == epoch + 1
    assert heir.finds("zebra", "Anchor")
    heir.write("Heritage", "An ibis.")
    tenant.wait_same(heir, words=("ibis",))
    line.current = heir


def test_a_machine_that_slept_over_its_lease_ends(tenant, line):
    """It cannot know that time has passed, and its app may be in the middle of something: the fence keeps the database."""
    sleeper, epoch = line.current, tenant.lease()["epoch"]
    tenant.wait_same(sleeper)
    sleeper.freeze()
    try:
        heir = tenant.machine().start().wait_ready(60)
        heir.write("While it slept", "A crane.")
        tenant.wait_same(heir, words=("crane",))
    finally:
        sleeper.thaw()
    end = sleeper.wait(60)
    assert end.code == 77, end
    assert sleeper.events("lease_lost")
    assert sleeper.events("resumed") and sleeper.events("lease_unproven"), "it noticed, and rclone was stopped before it asked"
    assert "lease" in end.last_line
    # It did not disturb its heir.
    assert tenant.lease()["epoch"] == epoch + 1
    heir.write("Afterwards", "A stork.")
    tenant.wait_same(heir, words=("crane", "stork"))
    assert heir.status()["services"]["index"]["restarts"] == 0
    line.current = heir


def test_a_sleeper_without_an_heir_goes_on(tenant, line):
    """Expired and not taken is still the holder's: nobody else wrote."""
    sleeper, epoch = line.current, tenant.lease()["epoch"]
    sleeper.freeze()
    expires = tenant.lease()["expires_ms"]
    now = "SELECT CAST(unixepoch('subsec') * 1000 AS INTEGER)"
    wait_until(lambda: tenant.sqld.query(now)[0][0] > expires + 500, 30, "it expires", every=0.2)
    sleeper.thaw()
    sleeper.write("Awake", "A rested dormouse.")
    tenant.wait_same(sleeper, words=("dormouse",))
    assert tenant.lease()["epoch"] == epoch
    assert sleeper.running()
    assert sleeper.events("resumed")
    wait_until(lambda: sleeper.get("/readyz")[0] == 200, 30, lambda: str(sleeper.reasons()))


def test_a_waiting_machine_can_be_stopped(tenant, line):
    waiting = line.rival()
    before = tenant.lease()["epoch"]
    end = waiting.stop()
    assert end.code == 0 and end.seconds < 15, end
    assert tenant.lease()["epoch"] == before
    assert line.current.status()["lease"]["held"] is True


def test_a_disk_that_missed_other_machines_does_not_speak_for_the_tenant(tenant, line):
    """What it holds is of a life before: the database is newer, and is restored over it."""
    line.current.write("Meanwhile", "An egret.")
    assert line.current.stop().code == 0
    back = tenant.machine(disk=line.first_disk).start().wait_ready()
    assert back.events("index_restored") and not back.events("index_continued")
    assert back.finds("egret", "Meanwhile")
    tenant.wait_same(back, words=("egret", "zebra", "heron"))
    line.current = back


def test_unsent_files_of_a_disk_that_was_overtaken_are_set_aside_and_named(tenant, line):
    """They could replace what the machines after it have written: kept and said, never uploaded by themselves."""
    assert line.current.stop().code == 0
    overtaken = tenant.machine(env={"TENANT_INIT_MOUNT__WRITE_BACK": "60s"}).start().wait_ready()
    overtaken.write("Overtaken", "A dodo.")
    cached = overtaken.disk / "cache/vfs/tenant/notes/main/notes/Overtaken.md"
    wait_until(lambda: cached.exists() and "dodo" in cached.read_text(), 30, "the note is in the cache")
    overtaken.kill()
    assert "main/notes/Overtaken.md" not in tenant.s3.objects()

    heir = tenant.machine().start().wait_ready(60)
    assert heir.stop().code == 0
    back = tenant.machine(disk=overtaken.disk).start().wait_ready()
    [said] = back.events("writes_set_aside")
    assert "main/notes/Overtaken.md" in said["message"]
    [kept] = overtaken.disk.glob("cache/set-aside-*/vfs/tenant/notes/main/notes/Overtaken.md")
    assert "dodo" in kept.read_text()
    line.current = back


def test_another_tenants_database_is_refused_and_nothing_is_written(tenant, line, make_indexed_tenant):
    """A mixed-up secret: the notes of one tenant would end up in the index of another."""
    other = make_indexed_tenant("other")
    machine = other.machine().start().wait_ready()
    machine.write("Private", "A secret axolotl.")
    other.wait_same(machine)
    assert machine.stop().code == 0
    assert line.current.stop().code == 0

    before = contents(tenant), contents(other)
    mixed = tenant.machine(database_url=other.sqld.url_at(other.proxy.port)).start()
    end = mixed.wait(60)
    assert end.code == 77, end
    assert "database" in end.last_line
    assert (contents(tenant), contents(other)) == before
    assert "axolotl" not in mixed.log()


def contents(tenant):
    """Everything in bucket and database."""
    objects = {name: (tenant.s3.path / name).read_bytes() for name in tenant.s3.objects(own=True)}
    tables = {table: tenant.sqld.query(f'SELECT * FROM "{table}"') for table in tenant.sqld.tables()}
    return objects, tables
