"""The way to the database fails: the app goes on on its local file, everybody is told, and afterwards nothing is missing or double.

One tenant for the module. The faults hit a machine in the middle of its life, then come machines that die. Faults while a
machine starts, and tokens that expire: test_index_boot.py.
"""

import pytest

from lib.outages import OUTAGES, named, refused, token_revoked
from lib.wait import wait_until

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def tenant(make_indexed_tenant):
    # One stop here waits in vain, and one test waits for the lag to be too long.
    return make_indexed_tenant(env={"TENANT_INIT_LIMITS__STOP_TIMEOUT": "20s", "TENANT_INIT_INDEX__MAX_LAG": "8s"})


@pytest.fixture(scope="module")
def machine(tenant):
    machine = tenant.machine().start().wait_ready()
    machine.write("Anchor", "A zebra that is always there.")
    tenant.wait_same(machine)
    return machine


# -- in the middle of a life --


@pytest.mark.parametrize("outage", [*OUTAGES, token_revoked], ids=named)
def test_the_app_goes_on_and_nothing_is_missing_afterwards(tenant, machine, outage):
    machine.wait_shipped()
    before = machine.status()["services"]["app"]["restarts"]
    with outage(tenant):
        title = machine.use(outage.__name__)
        at = wait_until(lambda: (s := machine.status())["index"]["lag_seconds"] > 2 and s, 30, "a lag is shown", every=0.2)
        assert at["index"]["outbox"] > 0
        expected = "database_rejected" if outage is token_revoked else "database_unreachable"
        wait_until(lambda: expected in machine.reasons(), 60, lambda: f"{expected}: {machine.status()['reasons']}", every=0.2)
        assert outage is token_revoked or machine.status()["database"]["reachable"] is False
        assert machine.status()["services"]["app"]["restarts"] == before, "the app has nothing to do with it"
    machine.wait_shipped(60)
    tenant.wait_same(machine)
    tenant.assert_once(title)
    wait_until(lambda: (s := machine.status())["phase"] == "ready" and not s["reasons"], 30, "it says that all is well", every=0.2)
    assert machine.status()["database"]["reachable"] is True
    assert machine.status()["services"]["index"]["restarts"] == 0, "an outage is no reason to seed anything again"


def test_a_lag_is_a_reason_of_its_own(machine, tenant):
    with refused(tenant):
        machine.write("Laggard", "A sloth.")
        wait_until(lambda: "index_lagging" in machine.reasons(), 60, lambda: str(machine.status()["reasons"]), every=0.3)
        assert machine.get("/readyz")[0] == 503, "what is not stored for too long is a reason to send nothing more here"
    machine.wait_shipped()


def test_an_answer_lost_after_the_commit_is_applied_once(tenant, machine):
    """The database has it, tenant-init cannot know: it asks, or sends again what the position makes harmless."""
    machine.wait_shipped()
    before = tenant.proxy.counters
    tenant.proxy.swallow_next(matching=b"COMMIT", count=3)
    title = machine.use("lost_answers")
    wait_until(lambda: tenant.proxy.counters.since(before).swallowed == 3, 30, "three answers are lost", every=0.1)
    machine.wait_shipped()
    tenant.wait_same(machine)
    tenant.assert_once(title)
    assert machine.status()["services"]["index"]["restarts"] == 0


def test_connections_that_are_cut_again_and_again(tenant, machine):
    for number in range(5):
        machine.write(f"Cut {number}", f"A snail {number}.")
        tenant.proxy.cut()
    machine.wait_shipped()
    tenant.wait_same(machine, words=("snail",))
    assert [title for title in tenant.titles() if title.startswith("Cut ")] == [f"Cut {number}" for number in range(5)]


def test_a_slow_network_slows_only_the_shipping(tenant, machine):
    tenant.proxy.rtt_ms = 200
    try:
        title = machine.use("slow")
        machine.wait_shipped()
        tenant.wait_same(machine)
        tenant.assert_once(title)
    finally:
        tenant.proxy.rtt_ms = 0


def test_a_database_that_somebody_changed_is_seeded_again(tenant, machine):
    """The notes are the truth, then the file, then the database; a difference is noticed by what a statement changed."""
    machine.wait_shipped()
    tenant.sqld.execute("DELETE FROM search_index", "DELETE FROM relation", "DELETE FROM observation", "DELETE FROM entity")
    machine.call("edit_note", identifier="notes/anchor", operation="append", content="\nAnd a heron.")
    wait_until(lambda: machine.events("index_reseeded"), 60, "the database is seeded again", every=0.3)
    tenant.wait_same(machine)
    assert machine.status()["services"]["index"]["restarts"] == 1
    tenant.assert_once("Anchor")
    wait_until(lambda: machine.status()["phase"] == "ready", 30, lambda: str(machine.status()["reasons"]), every=0.2)


def test_the_full_check_on_demand_finds_and_repairs_what_no_statement_would(tenant, machine):
    machine.wait_shipped()
    machine.signal("USR1")
    wait_until(lambda: machine.events("index_compared"), 60, "everything is compared", every=0.2)
    assert "are the same" in machine.events("index_compared")[0]["message"]
    repaired = machine.status()["services"]["index"]["restarts"]

    tenant.sqld.execute("UPDATE entity SET title = 'Forged' WHERE title = 'Anchor'")
    machine.signal("USR1")
    wait_until(lambda: machine.status()["services"]["index"]["restarts"] == repaired + 1, 60, "the database is seeded again", every=0.2)
    said = machine.events("index_broken")[-1]["message"]
    assert "entity" in said and "title" in said and "Forged" not in said, "what differs, never a value"
    tenant.wait_same(machine)
    tenant.assert_once("Anchor")


# -- a stop, and machines that die --


def test_a_stop_that_cannot_ship_says_so_and_the_same_disk_finishes_it(tenant, machine):
    with refused(tenant):
        machine.write("Held", "A badger that waits.")
        end = machine.stop(seconds=150)
        assert (end.code, end.verdict["stored"]) == (74, False)
        assert end.verdict["index_pending"] > 0
        assert end.verdict["uploads_pending"] == [], "the bucket was there all the time"
    again = tenant.machine(disk=machine.disk).start().wait_ready()
    assert again.events("index_continued")
    again.wait_shipped()
    tenant.wait_same(again, words=("badger",))
    tenant.assert_once("Held")
    assert again.stop().code == 0


def test_a_killed_machine_on_the_same_disk_ships_what_it_had(tenant):
    machine = tenant.alone().machine().start().wait_ready()
    tenant.proxy.refuse()
    for number in range(5):
        machine.write(f"Orphan {number}", f"A meerkat {number}.")
    wait_until(lambda: machine.status()["index"]["outbox"] > 0, 10, "the outbox is filled")
    tenant.wait_stored("Orphan", 5)
    machine.kill()
    tenant.proxy.ok()
    assert "Orphan 0" not in tenant.titles()

    again = tenant.machine(disk=machine.disk).start().wait_ready()
    assert again.events("index_continued")
    again.wait_shipped()
    tenant.wait_same(again, words=("meerkat",))
    assert [t for t in tenant.titles() if t.startswith("Orphan")] == [f"Orphan {n}" for n in range(5)]

    # The same again, and the disk is gone with the machine: the notes are in the bucket, and so they are found.
    tenant.proxy.refuse()
    for number in range(3):
        again.write(f"Foundling {number}", f"A tarsier {number}.")
    tenant.wait_stored("Foundling", 3)
    again.kill()
    tenant.proxy.ok()
    fresh = tenant.machine().start().wait_ready()
    assert fresh.events("index_restored")
    assert fresh.finds("meerkat", "Orphan 4"), "what the database had is there at once"
    for number in range(3):
        wait_until(lambda: fresh.finds("tarsier", f"Foundling {number}"), 60, "a note that the database never had", every=0.5)
    tenant.wait_same(fresh, words=("tarsier",))
    assert [t for t in tenant.titles() if t.startswith("Foundling")] == [f"Foundling {n}" for n in range(3)]
    assert fresh.stop().code == 0
