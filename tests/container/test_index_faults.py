"""The way to the database fails: the app goes on on its local file, everybody is told, and afterwards nothing is missing or double.

One tenant for the module. The faults in the middle of its life hit one machine after the other; then come those at boot, then
machines that die. A platform restarts a machine that ended with 69: the tests do the same.
"""

import time
from contextlib import contextmanager

import pytest

from lib.indexed import IndexedTenant
from lib.wait import wait_until

pytestmark = pytest.mark.timeout(300)

PROMPT = 15  # seconds a call of the app may take, whatever the database does


# -- what can happen to the network or the server --


@contextmanager
def refused(tenant):
    tenant.proxy.refuse()
    try:
        yield
    finally:
        tenant.proxy.ok()


@contextmanager
def silent(tenant):
    tenant.proxy.silent()
    try:
        yield
    finally:
        tenant.proxy.ok()


@contextmanager
def stuck(tenant):
    """The server itself stops and answers late what it was asked."""
    tenant.sqld.suspend()
    try:
        yield
    finally:
        tenant.sqld.resume()


@contextmanager
def killed(tenant):
    tenant.sqld.kill()
    try:
        yield
    finally:
        tenant.sqld.start()


@contextmanager
def token_revoked(tenant):
    tenant.sqld.revoke()
    try:
        yield
    finally:
        tenant.sqld.restore_keys()


def status(code):
    @contextmanager
    def answering(tenant):
        tenant.proxy.status(code)
        try:
            yield
        finally:
            tenant.proxy.ok()

    answering.__name__ = f"status_{code}"
    return answering


OUTAGES = [refused, silent, stuck, killed, status(500), status(503), status(429)]


def named(fault):
    return fault.__name__


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


def use_it(machine, label):
    """Writes, reads, finds and edits a note; every call answers soon and says what it says on any day."""
    title, word, identifier = f"During {label}", f"word{label.replace('_', '')}", f"notes/during-{label.replace('_', '-')}"

    def timed(tool, **arguments):
        begin = time.monotonic()
        answer = machine.call(tool, **arguments)
        assert time.monotonic() - begin < PROMPT, f"{tool} took {time.monotonic() - begin:.1f} s"
        return answer

    timed("write_note", title=title, directory="notes", content=f"# {title}\nA note with {word}.")
    assert word in timed("read_note", identifier=identifier)
    assert title in timed("search_notes", query=word)
    timed("edit_note", identifier=identifier, operation="append", content="\nOne more line.")
    return title


def once(tenant, title):
    """The note is in the database, once."""
    assert tenant.titles().count(title) == 1
    assert tenant.sqld.query("SELECT count(*) FROM search_index WHERE type = 'entity' AND title = ?", title) == [(1,)]


# -- in the middle of a life --


@pytest.mark.parametrize("outage", [*OUTAGES, token_revoked], ids=named)
def test_the_app_goes_on_and_nothing_is_missing_afterwards(tenant, machine, outage):
    machine.wait_shipped()
    before = machine.status()["services"]["app"]["restarts"]
    with outage(tenant):
        title = use_it(machine, outage.__name__)
        at = wait_until(lambda: (s := machine.status())["index"]["lag_seconds"] > 2 and s, 30, "a lag is shown", every=0.2)
        assert at["index"]["outbox"] > 0
        expected = "database_rejected" if outage is token_revoked else "database_unreachable"
        wait_until(lambda: expected in machine.reasons(), 60, lambda: f"{expected}: {machine.status()['reasons']}", every=0.2)
        assert outage is token_revoked or machine.status()["database"]["reachable"] is False
        assert machine.status()["services"]["app"]["restarts"] == before, "the app has nothing to do with it"
    machine.wait_shipped(60)
    tenant.wait_same(machine)
    once(tenant, title)
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
    title = use_it(machine, "lost_answers")
    wait_until(lambda: tenant.proxy.counters.since(before).swallowed == 3, 30, "three answers are lost", every=0.1)
    machine.wait_shipped()
    tenant.wait_same(machine)
    once(tenant, title)
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
        title = use_it(machine, "slow")
        machine.wait_shipped()
        tenant.wait_same(machine)
        once(tenant, title)
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
    once(tenant, "Anchor")
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
    once(tenant, "Anchor")


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
    once(tenant, "Held")
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


# -- at boot --


@pytest.mark.parametrize("outage", [refused, silent, status(500)], ids=named)
def test_no_start_without_the_database_and_one_as_soon_as_it_is_back(tenant, outage):
    """Whether the machine waits or ends with 69 and is started again: it is never ready meanwhile, and says why."""
    disk = tenant.folder / f"boot-{outage.__name__}"
    machine = tenant.alone().machine(disk)
    with outage(tenant):
        machine.start()
        wait_until(lambda: not machine.running() or "database_unreachable" in machine.reasons(), 60, machine.log, every=0.2)
        if machine.running():
            assert machine.get("/readyz")[0] == 503
            assert machine.status()["services"]["index"]["state"] in ("waiting", "starting")
        else:
            end = machine.wait()
            assert end.code == 69 and "database" in end.last_line, end
    if machine.running():
        machine.wait_ready()
    else:
        machine = tenant.ready_machine(disk)
    machine.write(f"After {outage.__name__}", "A heron after a late start.")
    tenant.wait_same(machine, words=("heron",))
    assert machine.stop().code == 0


def test_a_rejected_token_ends_the_start(tenant):
    """Waiting does not make a token right, and without a lease nothing may be written."""
    url = tenant.sqld.url_at(tenant.proxy.port, token=tenant.sqld.token(lifetime=-60))
    before = tenant.alone().lease()
    end = tenant.machine(database_url=url).start().wait(60)
    assert end.code == 77, end
    assert tenant.sqld.tenants_token not in end.last_line and "database" in end.last_line
    assert tenant.lease() == before


def test_answers_that_are_lost_while_the_lease_is_taken(make_indexed_tenant):
    """The lease is ours and we do not know it: a start that holds on to that would wait for itself."""
    tenant: IndexedTenant = make_indexed_tenant("lost")
    tenant.proxy.swallow_next(matching=b"_tenant_init_lease", count=2)
    machine = tenant.ready_machine()
    assert tenant.proxy.counters.swallowed == 2
    machine.write("First", "A zebra despite everything.")
    tenant.wait_same(machine)
    assert tenant.lease()["epoch"] == machine.status()["lease"]["epoch"]
    assert machine.stop().code == 0


def test_over_tls_with_an_authority_of_its_own(make_indexed_tenant, tmp_path):
    """As with Turso: TLS, and a token in every request."""
    from lib.faultproxy import FaultProxy

    tenant: IndexedTenant = make_indexed_tenant("tls")
    with FaultProxy(tenant.sqld.port, tls_folder=tmp_path / "tls") as proxy:
        machine = tenant.machine(database_url=tenant.sqld.url_at(proxy.port, tls=True), env={"SSL_CERT_FILE": "/ca.pem"})
        machine.options += ["--volume", f"{proxy.ca_file}:/ca.pem:ro"]
        machine.start().wait_ready()
        machine.write("Secret", "A zebra behind TLS.")
        tenant.wait_same(machine)
        assert machine.stop().code == 0
        assert proxy.counters.requests > 0 and tenant.proxy.counters.requests == 0
