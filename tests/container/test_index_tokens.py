"""Tokens that were good and are not any more: the app goes on, it is told apart from a network that fails, and a new token is
all that it takes.

Two machines at the most live here at a time: one whose token has ended in the middle of its life, and others that never start.
"""

import pytest

from lib.wait import wait_until

pytestmark = pytest.mark.timeout(300)

LEEWAY = 60  # seconds that the server takes a token for after its end


@pytest.fixture(scope="module")
def expired(tenant):
    """A machine that was ready and whose token has expired since; with the titles of the notes it was given before."""
    for lifetime in (20, 60):  # seconds; a machine that is slow to start gets more of them
        token = tenant.sqld.token(lifetime - LEEWAY)
        machine = tenant.alone().machine(database_url=tenant.sqld.url_at(tenant.proxy.port, token=token)).start()
        wait_until(lambda: not machine.running() or machine.get("/readyz")[0] == 200, 60, machine.log, every=0.2)
        if machine.running():
            break
    machine.token = token
    machine.write("Before", "A zebra in time.")
    machine.wait_shipped()
    wait_until(lambda: "database_rejected" in machine.reasons(), lifetime + 30, lambda: f"rejected: {machine.status()}", every=0.2)
    return machine


def test_the_app_goes_on_without_a_token_that_is_good(tenant, expired):
    title = expired.use("expired")
    status = expired.status()
    [reason] = [reason for reason in status["reasons"] if reason.startswith("database_")]
    assert reason.startswith("database_rejected: ") and "expired" in reason and expired.token not in reason
    assert status["phase"] == "degraded" and expired.get("/readyz")[0] == 503
    assert status["index"]["outbox"] > 0 and status["services"]["app"]["restarts"] == 0
    assert title not in tenant.titles()


@pytest.mark.parametrize("why", ["expired", "revoked"])
def test_no_start_with_such_a_token(tenant, expired, why):
    """Waiting does not make a token right, and without a lease nothing may be written."""
    token = tenant.sqld.token(lifetime=-120 if why == "expired" else 3600)
    if why == "revoked":
        tenant.sqld.revoke()
    try:
        before = tenant.lease()
        end = tenant.machine(database_url=tenant.sqld.url_at(tenant.proxy.port, token=token)).start().wait(60)
        assert end.code == 77, end
        assert "token for the index database" in end.last_line and "rejected" in end.last_line
        assert ("expired" in end.last_line) == (why == "expired")
        assert token not in end.last_line
        assert tenant.lease() == before
    finally:
        if why == "revoked":
            tenant.sqld.restore_keys()


def test_after_a_minute_it_stops_and_a_new_token_finishes_what_it_had(tenant, expired):
    """Nobody who looks at exit codes restarts a machine that ended with 77 as it is; what it holds is on its disk."""
    end = expired.wait(90)
    assert (end.code, end.verdict["stored"]) == (77, False)
    assert end.verdict["index_pending"] > 0 and end.verdict["uploads_pending"] == [], "the notes themselves are in the bucket"
    assert "expired" in end.verdict["reason"] and expired.token not in str(end)
    assert tenant.titles() == ["Before"]
    again = tenant.machine(disk=expired.disk).start().wait_ready()
    assert again.events("index_continued")
    again.wait_shipped()
    tenant.wait_same(again, words=("zebra", "wordexpired"))
    assert tenant.titles() == ["Before", "During expired"]
    for title in tenant.titles():
        tenant.assert_once(title)
    assert again.status()["services"]["index"]["restarts"] == 0
    assert again.stop().code == 0
