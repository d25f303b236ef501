"""A machine starts while the way to its database fails: it is never ready meanwhile, says why, changes nothing, and comes up
by itself as soon as it can. Or its token is not good any more: that is told apart, and a new token is all that it takes.

Two tenants for the module: one whose index a first machine has left in the database, one with a machine whose token expires.
That machine has a minute until it stops, in which the other tests run.
"""

from functools import partial

import pytest

from lib import index
from lib.indexed import IndexedTenant
from lib.outages import killed, named, refused, silent, status, too_many_requests
from lib.sqld import LEEWAY
from lib.wait import wait_until

pytestmark = pytest.mark.timeout(300)

NOTES = [f"Before {number}" for number in range(3)]
# The request for the rows, in the middle of a restore; the one that says afterwards whose past the database now is.
ROWS, CLAIM = b"LIMIT ?2", b"SET lineage = ?4"


@pytest.fixture(scope="module")
def tenant(make_indexed_tenant):
    tenant = make_indexed_tenant("boot")
    machine = tenant.machine().start().wait_ready()
    for title in NOTES:
        machine.write(title, "A zebra from before.")
    tenant.wait_same(machine)
    assert machine.stop().code == 0
    return tenant


@pytest.fixture(scope="module")
def late(make_indexed_tenant):
    """Another tenant and its machine, which was ready and was given a note before its token expired."""
    for lifetime in (12, 40, 80):  # seconds; a slow machine that could not do it in time gets more of them, and a new tenant
        other = make_indexed_tenant("late")
        token = other.sqld.token(lifetime - LEEWAY)
        machine = other.machine(database_url=other.sqld.url_at(other.proxy.port, token=token)).start()
        wait_until(lambda: not machine.running() or machine.get("/readyz")[0] == 200, 90, machine.log, every=0.2)
        if not machine.running():
            continue
        machine.write("Before", "A zebra in time.")

        def in_time():
            return "Before" in other.titles() and machine.status()["index"]["outbox"] == 0

        # Not the first empty outbox: the answer to write_note comes before all that follows from it.
        wait_until(lambda: in_time() or "database_rejected" in machine.reasons(), lifetime + 30, lambda: str(machine.status()), every=0.2)
        if in_time():
            break
        other.alone()
    machine.token = token
    wait_until(lambda: "database_rejected" in machine.reasons(), lifetime + 30, lambda: f"rejected: {machine.status()}", every=0.2)
    return other, machine


# -- tokens --


def test_the_app_goes_on_without_a_token_that_is_good(late):
    other, expired = late
    title = expired.use("expired")
    status = expired.status()
    [reason] = [reason for reason in status["reasons"] if reason.startswith("database_")]
    assert reason.startswith("database_rejected: ") and "expired" in reason and expired.token not in reason
    assert status["phase"] == "degraded" and expired.get("/readyz")[0] == 503
    assert status["index"]["outbox"] > 0 and status["services"]["app"]["restarts"] == 0
    assert title not in other.titles()


@pytest.mark.parametrize("why", ["expired", "revoked"])
def test_no_start_with_such_a_token(tenant, why):
    """Waiting does not make a token right, and without a lease nothing may be written."""
    token = tenant.sqld.token(lifetime=3600 if why == "revoked" else -2 * LEEWAY)
    if why == "revoked":
        tenant.sqld.revoke()
    try:
        before = everything(tenant)
        end = tenant.machine(database_url=tenant.sqld.url_at(tenant.proxy.port, token=token)).start().wait(60)
        assert end.code == 77, end
        assert "token for the index database" in end.last_line and "rejected" in end.last_line
        assert ("expired" in end.last_line) == (why == "expired")
        assert token not in end.last_line
        assert everything(tenant) == before
    finally:
        if why == "revoked":
            tenant.sqld.restore_keys()


# -- no database --


@pytest.fixture(scope="module")
def disk(tenant):
    """Of the machine that cannot start: a platform starts it again on the same one."""
    return tenant.folder / "disk-boot"


# What the last line says.
NO_DATABASE = [(refused, "connection refused"), (silent, "no answer within"), (killed, "closed before an answer came"),
               (status(500), "status 500"), (status(503), "status 503"), (too_many_requests, "status 429")]


@pytest.mark.parametrize("outage, words", NO_DATABASE, ids=named)
def test_no_start_without_the_database(tenant, disk, outage, words):
    """Without the lease nobody knows who else is writing."""
    before = everything(tenant)
    with outage(tenant):
        end = tenant.alone().machine(disk).start().wait(60)
        assert end.code == 69, end
        assert "index database" in end.last_line and words in end.last_line
    assert everything(tenant) == before


def test_it_starts_as_soon_as_the_database_is_back(tenant, disk):
    machine = tenant.alone().machine(disk).start().wait_ready()
    assert machine.finds("zebra", NOTES[0])
    assert machine.events("index_restored"), "no failed start left anything that could be taken for an index"
    machine.write("After", "A heron after a late start.")
    tenant.wait_same(machine, words=("heron", "zebra"))
    tenant.assert_once("After")
    assert machine.stop().code == 0


# What the reason in `/status` says.
ON_THE_WAY = [(killed, "closed before an answer came"), (status(503), "status 503"), (too_many_requests, "status 429"),
              (status(500), "status 500"), (refused, "connection refused"), (silent, "no answer within")]


def test_a_restore_that_fails_again_and_again_goes_on_by_itself(tenant):
    """The lease is taken, a part of the index is read, and there it ends: the same machine waits and reads again.

    The faults come one after the other in one start, each in the middle of a restore; the last one loses the answer to its
    last request. A start costs seconds.
    """
    machine = tenant.alone().machine()
    epoch = tenant.lease()["epoch"]
    lift = machine.start  # what ends the fault before
    for fault, words in ON_THE_WAY:
        outage = fault(tenant)
        sprung = tenant.proxy.before_next(ROWS, outage.__enter__)
        lift()
        assert sprung.wait(60), f"no restore was tried in which it could be {named(fault)}:\n{machine.log()}"
        # What is shown may still be the failure before this one.
        wait_until(lambda: words in restoring(machine), 60, lambda: f"{named(fault)}: {machine.status()}", every=0.1)
        assert machine.get("/readyz")[0] == 503
        lift = partial(outage.__exit__, None, None, None)
    tenant.proxy.swallow_next(matching=CLAIM)
    lift()
    machine.wait_ready()
    assert tenant.proxy.counters.swallowed == 1
    assert not machine.events("index_rebuilt") and not machine.events("index_fresh")
    assert machine.finds("zebra", NOTES[0]), "found by the first question: restored, not indexed again"
    status = machine.status()
    assert status["database"]["reachable"] is True
    assert [status["services"][name]["restarts"] for name in ("index", "app", "mount")] == [0, 0, 0]
    machine.write("Patient", "An okapi after all.")
    tenant.wait_same(machine, words=("okapi", "zebra"))
    for title in [*NOTES, "Patient"]:
        tenant.assert_once(title)
    assert index.damage(tenant.sqld) == []
    assert tenant.lease()["epoch"] == epoch + 1, "the lease was taken once"
    assert machine.stop().code == 0


def restoring(machine):
    """Words of the reason why a machine that is restoring its index is not ready."""
    assert machine.running(), machine.log()
    status = machine.status()
    assert status["services"]["index"]["state"] in ("waiting", "starting") and status["services"]["app"]["state"] != "ready", status
    [reason] = [reason for reason in status["reasons"] if reason.startswith("database_unreachable: ")]
    return reason


def everything(tenant):
    """All that is in the database, the lease included."""
    found = index.Snapshot("the database", tenant.sqld.query)
    return found.rows, found.definitions, found.sequences, tenant.lease()


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


def test_after_a_minute_it_stops_and_a_new_token_finishes_what_it_had(late):
    """Nobody who looks at exit codes restarts a machine that ended with 77 as it is; what it holds is on its disk."""
    other, expired = late
    end = expired.wait(90)
    assert (end.code, end.verdict["stored"]) == (77, False)
    assert end.verdict["index_pending"] > 0 and end.verdict["uploads_pending"] == [], "the notes themselves are in the bucket"
    assert "expired" in end.verdict["reason"] and expired.token not in str(end)
    assert other.titles() == ["Before"]
    again = other.machine(disk=expired.disk).start().wait_ready()
    assert again.events("index_continued")
    again.wait_shipped()
    other.wait_same(again, words=("zebra", "wordexpired"))
    assert other.titles() == ["Before", "During expired"]
    for title in other.titles():
        other.assert_once(title)
    assert again.status()["services"]["index"]["restarts"] == 0
    assert again.stop().code == 0
