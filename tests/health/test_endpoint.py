"""The health endpoint of a running tenant: what load balancers, scrapers and people are told."""

import http.client
import json
import socket
import time

from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as classic

from lib.wait import wait_until


def ask(tenant, path, method="GET", **headers):
    """One request on its own connection: status, headers (lower case), body."""
    connection = http.client.HTTPConnection("127.0.0.1", tenant.health_port, timeout=10)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read().decode()
    finally:
        connection.close()


def closed(client):
    try:
        return client.recv(1000) == b""
    except ConnectionResetError:
        return True


def test_every_route_of_a_ready_tenant(running_tenant):
    for path in ("/livez", "/readyz", "/startupz", "/status", "/metrics", "/"):
        status, headers, body = ask(running_tenant, path)
        assert (status, bool(body)) == (200, True), path
        assert headers["cache-control"] == "no-store" and headers["x-content-type-options"] == "nosniff", path
        assert ask(running_tenant, path, "HEAD")[::2] == (200, ""), path
        assert ask(running_tenant, path, "POST")[0] == 405, path
    assert ask(running_tenant, "/readyz")[2] == '{"ready":true,"reasons":[]}'
    assert ask(running_tenant, "/no/such/page")[0] == 404
    assert ask(running_tenant, "/changes", "POST")[0] == 404, "no webhook without a token"


def test_status_is_the_whole_picture(running_tenant):
    wait_until(lambda: (running_tenant.mount / "a.md").write_text("text"))
    status = wait_until(lambda: (s := running_tenant.status()) and s["uploads"]["queued"] == 0 and s)
    assert (status["phase"], status["ready"], status["reasons"]) == ("ready", True, [])
    assert set(status["services"]) == {"mount", "index", "app"}
    assert status["services"]["mount"]["driver"] in ("nfs", "fuse")
    assert status["storage"]["reachable"] is True and status["storage"]["latency_ms"] != 0, "unknown is null, not 0"
    assert wait_until(lambda: running_tenant.status()["storage"]["latency_ms"], 30) > 0, "after the first probe"
    for operation in status["operations"].values():
        assert operation.keys() == {"count", "errors", "p50_ms", "p99_ms"}
        assert 0 <= operation["p50_ms"] <= operation["p99_ms"]


def test_metrics_follow_the_specification_in_both_formats(running_tenant):
    _, headers, text = ask(running_tenant, "/metrics", Accept="application/openmetrics-text;version=1.0.0")
    assert headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    families = {family.name: family for family in openmetrics(text)}
    assert families["tenant_ready"].samples[0].value == 1
    assert {s.labels["phase"]: s.value for s in families["tenant_phase"].samples}["ready"] == 1
    assert families["tenant_mount_operation_seconds"].type == "histogram"
    _, headers, text = ask(running_tenant, "/metrics", Accept="text/plain;version=0.0.4")
    assert headers["content-type"].startswith("text/plain; version=0.0.4")
    assert {family.name for family in classic(text)} == families.keys()


def test_an_unreachable_bucket_is_said_and_slows_nothing(running_tenant, s3_server):
    s3_server.suspend()
    try:
        wait_until(lambda: running_tenant.status()["storage"]["reachable"] is False, 60)
        assert wait_until(lambda: running_tenant.get("/readyz")[1]["reasons"], 60)
        connection = http.client.HTTPConnection("127.0.0.1", running_tenant.health_port, timeout=10)
        took = []
        for _ in range(300):
            begin = time.perf_counter()
            connection.request("GET", "/readyz")
            connection.getresponse().read()
            took.append(time.perf_counter() - begin)
        assert sorted(took)[len(took) // 2] < 0.005, f"the median is {sorted(took)[len(took) // 2]:.4f} s"
        assert ask(running_tenant, "/livez")[0] == 200
    finally:
        s3_server.resume()
    running_tenant.wait_ready()
    assert running_tenant.metric('tenant_outage_seconds_total{dependency="storage"}') > 0


def test_silent_clients_keep_nobody_out(running_tenant):
    silent = [socket.create_connection(("127.0.0.1", running_tenant.health_port)) for _ in range(100)]
    try:
        begin = time.monotonic()
        assert ask(running_tenant, "/readyz")[0] == 200
        assert time.monotonic() - begin < 4, "answered only after the silent ones had timed out"
        for client in silent:
            client.settimeout(20)
        assert all(closed(client) for client in silent), "the server must not keep them for ever"
    finally:
        for client in silent:
            client.close()


def test_a_stopping_tenant_says_so_until_it_is_gone(make_tenant, s3_server):
    tenant = make_tenant(s3_server).start().wait_ready()
    s3_server.suspend()
    (tenant.mount / "late.md").write_text("text")
    tenant.process.signal(15)
    wait_until(lambda: tenant.status()["phase"] == "stopping", 30)
    status, body = tenant.get("/readyz")
    assert status == 503 and body["ready"] is False and body["reasons"]
    assert tenant.get("/startupz")[0] == 200, "it was ready once"
    s3_server.resume()
    assert tenant.wait(120).code == 0


def test_no_route_shows_a_secret(running_tenant, s3_server):
    for path in ("/livez", "/readyz", "/startupz", "/status", "/metrics", "/", "/nothing"):
        shown = repr(ask(running_tenant, path))
        assert s3_server.secret not in shown and s3_server.key_id not in shown, path


def test_the_page_shows_the_same(running_tenant):
    _, headers, page = ask(running_tenant, "/")
    assert "Healthy" in page and "No acknowledged write is waiting" in page
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy


def test_every_log_line_is_one_json_object(make_tenant, s3_server):
    app = ["sh", "-c", r"printf 'hello\n\033[31mred\033[0m\n'; sleep infinity"]
    tenant = make_tenant(s3_server, app=app).start().wait_ready()
    wait_until(lambda: '"message":"red"' in tenant.log())
    assert tenant.stop().code == 0
    for line in tenant.log().splitlines():
        entry = json.loads(line)
        assert entry["time"].endswith("Z") and entry["level"] in ("error", "warn", "info") and "message" in entry, line
    outputs = [e for e in map(json.loads, tenant.log().splitlines()) if e.get("event") == "output"]
    assert [e["message"] for e in outputs if e["service"] == "app"] == ["hello", "red"]
