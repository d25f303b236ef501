"""basic-memory's interpreter is loaded while the mount comes up, and runs nothing before."""

import os

import pytest

from lib.faultproxy import FaultProxy
from lib.mcp import McpClient
from lib.tenant import cmdline, descendants
from lib.wait import listening, wait_until

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def network(s3_server):
    with FaultProxy(s3_server.port) as proxy:
        proxy.rtt_ms = 700
        yield proxy


@pytest.fixture
def tenant(s3_server, make_container, network):
    """It has been started, and its bucket is so far away that the mount takes some seconds."""
    return make_container(s3_server, env={"AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{network.port}"}).start()


def interpreter(tenant):
    """Process id of basic-memory's interpreter; none when there is none."""
    return next((pid for pid in descendants(tenant.pid()) if b"/basic-memory\0mcp" in cmdline(pid)), None)


def loaded(tenant):
    wait_until(lambda: interpreter(tenant), 20, tenant.log, every=0.02)
    return interpreter(tenant)


def test_the_app_is_the_interpreter_that_was_started_before_the_mount(tenant, network):
    early = loaded(tenant)
    assert "mount_ready" not in tenant.log() and not listening(tenant.app_port)
    network.rtt_ms = 0
    tenant.wait_ready()
    assert interpreter(tenant) == early
    assert tenant.log().index('"mount_ready"') < tenant.log().index('"app_started"')
    # It reads nothing from us any more.
    assert os.readlink(f"/proc/{early}/fd/0") == "/dev/null"
    with McpClient(tenant.mcp_url()) as mcp:
        mcp.call("write_note", title="Early", directory="work", content="# Early\nA kestrel.")
        assert "kestrel" in mcp.call("read_note", identifier="work/early")
    assert tenant.stop().code == 0


def test_a_start_that_fails_ends_it(tenant, network):
    loaded(tenant)
    network.refuse()
    end = tenant.wait()
    assert end.code == 69, tenant.log()
    assert "app_started" not in tenant.log()


def test_an_interpreter_that_dies_while_it_waits_is_started_again(tenant, network):
    early = loaded(tenant)
    tenant.exec("sh", "-c", "kill -9 $(pgrep -f 'basic-memory mcp')")
    wait_until(lambda: interpreter(tenant) != early, 20, "it is dead", every=0.02)
    network.rtt_ms = 0
    tenant.wait_ready()
    assert '"app_warm"' in tenant.log() and tenant.status()["services"]["app"]["restarts"] == 0
    assert tenant.stop().code == 0
