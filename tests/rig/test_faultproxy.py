"""The network of the other tests does what it says; nothing here needs tenant-init."""

import http.client
import http.server
import ssl
import threading
import time

import pytest

from lib.faultproxy import FaultProxy
from lib.wait import wait_until


class Echo(http.server.BaseHTTPRequestHandler):
    """Answers with the body it got; `/chunked` in chunks, `/close` until the connection ends, `/leave` and hangs up unasked."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.done.append(body)
        self.send_response(200)
        if self.path == "/chunked":
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for at in range(0, len(body), 1000):
                part = body[at:at + 1000]
                self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))
            self.wfile.write(b"0\r\n\r\n")
        elif self.path == "/close":
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(body)
        else:
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            self.close_connection = self.path == "/leave"

    def finish(self):
        super().finish()
        self.server.left.append(True)

    def setup(self):
        super().setup()
        self.connection.setsockopt(6, 1, 1)  # TCP_NODELAY: head and body are two writes

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    server.daemon_threads = True
    server.done, server.left = [], []
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def proxy(server):
    with FaultProxy(server.server_port) as proxy:
        yield proxy


def connect(proxy, seconds=5):
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=seconds)
    connection.connect()
    connection.sock.setsockopt(6, 1, 1)
    return connection


def post(connection, body, path="/"):
    connection.request("POST", path, body)
    answer = connection.getresponse()
    return answer.status, answer.read()


@pytest.mark.parametrize("path", ["/", "/chunked", "/close"])
def test_it_passes_everything_on(proxy, path):
    body = bytes(range(256)) * 5000
    connection = connect(proxy)
    assert post(connection, body, path) == (200, body)
    assert post(connection, b"", path) == (200, b"")
    counted = proxy.counters
    assert counted.requests == 2
    assert counted.connections == (2 if path == "/close" else 1)
    assert counted.bytes_up > len(body) and counted.bytes_down > len(body)


def test_round_trips_are_added_and_data_is_not_throttled(proxy):
    proxy.rtt_ms = 60
    connection = connect(proxy)
    begin = time.monotonic()
    post(connection, b"x")
    first = time.monotonic() - begin
    begin = time.monotonic()
    body = b"y" * 4_000_000
    assert post(connection, body)[1] == body
    second = time.monotonic() - begin
    assert first >= 0.12  # the handshake, then the request
    assert 0.06 <= second < 0.12 + 0.5  # 123 parts of 64 KB, one after the other, would take more than 7 s


def test_refused_and_back(proxy):
    connection = connect(proxy)
    post(connection, b"before")
    proxy.refuse()
    with pytest.raises(OSError):
        post(connection, b"while")
    with pytest.raises(ConnectionRefusedError):
        connect(proxy)
    proxy.ok()
    assert post(connect(proxy), b"after") == (200, b"after")


def test_silence_holds_everything_back_and_delivers_late(proxy, server):
    proxy.silent()
    connection = connect(proxy, seconds=0.2)
    with pytest.raises(TimeoutError):
        post(connection, b"late")
    connection.close()
    assert server.done == []
    proxy.ok()
    # The client is gone; what it sent still arrives.
    wait_until(lambda: server.done == [b"late"], 3, "the late request arrives")


def test_what_silence_held_back_does_not_pass_a_refusal(proxy, server):
    proxy.silent()
    connection = connect(proxy)
    connection.request("POST", "/", b"held")
    wait_until(lambda: proxy.counters.requests == 1, 3, "the request is at the proxy")
    proxy.refuse()
    proxy.ok()
    assert post(connect(proxy), b"next") == (200, b"next")
    assert server.done == [b"next"]


def test_cut_connections_do_not_keep_new_ones_away(proxy):
    connection = connect(proxy)
    post(connection, b"a")
    proxy.cut()
    with pytest.raises((ConnectionError, http.client.RemoteDisconnected)):
        post(connection, b"b")
    assert post(connect(proxy), b"c") == (200, b"c")


@pytest.mark.parametrize("code", [401, 429, 500, 503])
def test_a_status_comes_from_the_proxy_alone(proxy, server, code):
    proxy.status(code)
    connection = connect(proxy)
    assert post(connection, b"a")[0] == code
    proxy.ok()
    assert post(connection, b"b") == (200, b"b")
    assert server.done == [b"b"]
    assert proxy.counters.injected == 1


def test_a_status_may_have_headers(proxy):
    proxy.status(429, headers=[("Retry-After", "7")])
    connection = connect(proxy)
    connection.request("POST", "/", b"a")
    assert connection.getresponse().getheader("Retry-After") == "7"


def test_something_happens_in_front_of_a_request(proxy, server):
    happened = proxy.before_next(b"second", lambda: proxy.status(503))
    connection = connect(proxy)
    assert post(connection, b"first")[0] == 200 and not happened.is_set()
    assert post(connection, b"the second one")[0] == 503 and happened.is_set()
    proxy.ok()
    assert post(connection, b"the second one again")[0] == 200, "once"
    assert server.done == [b"first", b"the second one again"]


def test_what_is_on_its_way_can_be_lost(proxy, server):
    held = proxy.hold_next(b"held")
    connection = connect(proxy)
    connection.request("POST", "/", b"held back")
    assert held.arrived.wait(5)
    proxy.lose()
    held.deliver()
    with pytest.raises((ConnectionError, http.client.RemoteDisconnected)):
        connection.getresponse()
    assert post(connect(proxy), b"later") == (200, b"later")
    assert server.done == [b"later"]


def test_a_server_that_ends_an_idle_connection_is_no_fault(proxy, server):
    connection = connect(proxy)
    assert post(connection, b"a", "/leave")[0] == 200
    wait_until(lambda: server.left, 3, "the server has closed its connection")
    assert post(connection, b"b")[0] == 200
    assert proxy.counters.connections == 1


def test_a_lost_answer_is_one_whose_request_was_carried_out(proxy, server):
    proxy.swallow_next(matching=b"COMMIT")
    connection = connect(proxy)
    assert post(connection, b"SELECT 1")[0] == 200
    with pytest.raises((ConnectionError, http.client.RemoteDisconnected)):
        post(connection, b"BEGIN; COMMIT")
    assert server.done == [b"SELECT 1", b"BEGIN; COMMIT"]
    assert proxy.counters.swallowed == 1
    assert post(connect(proxy), b"BEGIN; COMMIT")[0] == 200


def test_a_server_that_is_down_looks_like_a_reset(server):
    with FaultProxy(1) as proxy, pytest.raises((ConnectionError, http.client.RemoteDisconnected)):
        post(connect(proxy), b"a")


def test_tls_with_an_authority_of_its_own(server, tmp_path):
    with FaultProxy(server.server_port, tls_folder=tmp_path / "tls") as proxy:
        for host in ("127.0.0.1", "localhost"):
            trusting = ssl.create_default_context(cafile=proxy.ca_file)
            connection = http.client.HTTPSConnection(host, proxy.port, timeout=5, context=trusting)
            assert post(connection, b"secret") == (200, b"secret")
        with pytest.raises(ssl.SSLCertVerificationError):
            http.client.HTTPSConnection("localhost", proxy.port, timeout=5, context=ssl.create_default_context()).connect()
