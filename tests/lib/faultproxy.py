"""A network that can be slow, broken or malicious: an HTTP/1.1 proxy in front of one server, in this process.

It understands requests and answers, because the interesting faults are between the two: a server that did what it was asked
and whose answer never arrived is not the same as one that was never reached.

    with FaultProxy(sqld.port) as proxy:
        proxy.rtt_ms = 100
        proxy.refuse()
        ...
        proxy.ok()
"""

import asyncio
import socket
import ssl
import struct
import threading
from collections import deque
from dataclasses import dataclass, replace

from .tls import make_certificate
from .wait import free_port

CHUNK = 64 * 1024
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER with no time: closing sends a reset


@dataclass
class Counters:
    """What went through; take differences with `since`."""

    connections: int = 0
    requests: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    injected: int = 0  # requests that the proxy answered itself
    swallowed: int = 0  # answers of the server that the client never got

    def since(self, before):
        return Counters(**{name: value - getattr(before, name) for name, value in vars(self).items()})


class Held:
    """A request that the network holds back."""

    def __init__(self, loop):
        self._loop = loop
        self.arrived = threading.Event()
        self.released = asyncio.Event()

    def deliver(self):
        self._loop.call_soon_threadsafe(self.released.set)


class FaultProxy:
    """Listens on a port of its own on 127.0.0.1; every method may be called from any thread, while requests run.

    With `wire` (lib/wire.py) it listens at the wire's far end instead: what goes wrong between two machines goes wrong there.

    `rtt_ms` is added to the round trip, half in each direction; a new connection costs one more for TCP, with TLS two. Data
    is delayed, not throttled. With `tls` the proxy has a certificate for 127.0.0.1 and localhost by the authority in `ca_file`.
    """

    def __init__(self, target_port, rtt_ms=0, tls_folder=None, port=None, wire=None):
        self.target_port = target_port
        self.port = port or free_port()
        self.wire = wire
        self.rtt_ms = rtt_ms
        self.ca_file = None
        self._tls = None
        if tls_folder:
            certificate = make_certificate(tls_folder)
            self.ca_file = certificate.ca
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(certificate.chain, certificate.key)
            self._tls.set_alpn_protocols(["http/1.1"])
        self._counters = Counters()
        self._mode = ("ok", None)
        self._swallow = None  # (how many, predicate)
        self._hold = None  # (several bytes in a request, Held)
        self._era = 0  # requests of an earlier one are lost
        self._trap = None  # (bytes in a request, what happens before it goes on)
        self._clients = set()
        self._server = self._loop = None
        self.seen = deque(maxlen=200)  # first lines of the last requests, for a test that fails

    # -- life --

    def start(self):
        ready = threading.Event()
        self._loop = asyncio.new_event_loop()

        def work():
            asyncio.set_event_loop(self._loop)
            self._open = asyncio.Event()  # set unless silent
            self._open.set()
            self._loop.run_until_complete(self._listen())
            ready.set()
            self._loop.run_forever()
            left = asyncio.all_tasks(self._loop)
            for task in left:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            self._loop.close()

        self._thread = threading.Thread(target=work, name="faultproxy", daemon=True)
        self._thread.start()
        if not ready.wait(10):
            raise TimeoutError("the proxy does not listen")
        return self

    def close(self):
        if self._loop is None or self._loop.is_closed():
            return
        self._do(self._stop_listening())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.close()

    # -- faults --

    def ok(self):
        """Everything passes. What a silent time held back is delivered now, late, as a network does that comes back."""
        self._do(self._set_mode("ok"))

    def refuse(self):
        """Nobody listens: connections are refused, the existing ones are reset."""
        self._do(self._set_mode("refuse"))

    def silent(self):
        """Connections are accepted, nothing is ever answered; requests and answers on their way stop there."""
        self._do(self._set_mode("silent"))

    def status(self, code, body=b'{"message":"injected by the test"}', headers=()):
        """The proxy answers every request with this status; the server sees none. `headers`: further ones, (name, value)."""
        self._do(self._set_mode("status", (code, body, headers)))

    def cut(self):
        """Resets the existing connections, once."""
        self._do(self._cut())

    def swallow_next(self, matching=None, count=1):
        """The next `count` requests are carried out, their answers are lost and the connection with them.

        `matching` says which requests count: bytes that must be in the request (for example b"COMMIT"), since clients also
        send probes of their own. `counters.swallowed` says how often it happened.
        """
        self._swallow = [count, matching or b""]

    def before_next(self, matching, happens):
        """Calls `happens()` once, when the next request with the bytes `matching` has arrived and before it goes on.

        In a thread of its own, so that it may call everything here: what it sets is what that request meets. The event that
        is returned is set when it has happened.
        """
        done = threading.Event()

        def spring():
            happens()
            done.set()

        self._trap = (matching, spring)
        return done

    def hold_next(self, *matching):
        """The next request with all the bytes `matching` stays in the network until `deliver()` of what is returned, even when
        its sender has long given it up. Requests after it overtake it."""
        held = Held(self._loop)
        self._hold = (matching, held)
        return held

    def lose(self):
        """Requests that are on their way or held back never arrive. Those that come now are as before."""
        self._era += 1

    @property
    def counters(self):
        return replace(self._counters)

    # -- inside the loop --

    def _do(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    async def _listen(self):
        at = {"sock": self.wire.listen(self.port)} if self.wire else {"host": "127.0.0.1", "port": self.port}
        self._server = await asyncio.start_server(self._serve, **at, ssl=self._tls, limit=2**20)

    async def _stop_listening(self):
        if self._server:
            self._server.close()  # not wait_closed: from Python 3.12 on it waits for the connections too
            self._server = None
        await self._cut()

    async def _set_mode(self, mode, detail=None):
        self._mode = (mode, detail)
        (self._open.clear if mode == "silent" else self._open.set)()
        if mode == "refuse":
            await self._stop_listening()
        elif self._server is None:
            await self._listen()

    async def _cut(self):
        for writer in list(self._clients):
            _reset(writer)

    async def _serve(self, reader, writer):
        self._counters.connections += 1
        self._clients.add(writer)
        upstream = None
        # Here the connection exists already; its handshake is paid for with the first request.
        round_trips = 2 if self._tls else 1
        try:
            while request := await _read_message(reader, request=True):
                upstream, keep = await self._exchange(request, writer, upstream, round_trips)
                round_trips = 0
                if not keep:
                    break
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError):
            _reset(writer)  # either side broke off: the other one sees the same
        finally:
            self._clients.discard(writer)
            writer.close()
            if upstream:
                upstream[1].close()

    async def _exchange(self, request, client, upstream, round_trips):
        self._counters.requests += 1
        self._counters.bytes_up += len(request)
        self.seen.append(request.split(b"\r\n", 1)[0].decode(errors="replace"))
        era = self._era
        await asyncio.sleep((round_trips + 0.5) * self.rtt_ms / 1000)
        if self._trap and self._trap[0] in request:
            (_, spring), self._trap = self._trap, None
            await asyncio.get_running_loop().run_in_executor(None, spring)
        if self._hold and all(part in request for part in self._hold[0]):
            (_, held), self._hold = self._hold, None
            held.arrived.set()
            await held.released.wait()
        await self._open.wait()
        if era != self._era:
            raise ConnectionError("lost on its way")
        mode, detail = self._mode
        if mode == "refuse":
            raise ConnectionError("refused while the request was on its way")
        if mode == "status":
            self._counters.injected += 1
            await asyncio.sleep(self.rtt_ms / 2000)
            code, body, headers = detail
            more = b"".join(f"{name}: {value}\r\n".encode() for name, value in headers)
            client.write(b"HTTP/1.1 %d Injected\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%b\r\n%b"
                         % (code, len(body), more, b"" if request.startswith(b"HEAD ") else body))
            await client.drain()
            return upstream, True
        swallow = self._takes(request)
        if upstream and upstream[0].at_eof():
            # The server has closed it meanwhile, as it may: a client without a proxy would have seen that.
            upstream[1].close()
            upstream = None
        if upstream is None:
            upstream = await asyncio.open_connection("127.0.0.1", self.target_port, limit=2**20)
            upstream[1].get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        upstream[1].write(request)
        await upstream[1].drain()
        head_only = request.startswith(b"HEAD ")
        if swallow:
            await _read_message(upstream[0], request=False, head_only=head_only)
            self._counters.swallowed += 1
            _reset(client)
            return upstream, False
        return upstream, await self._answer(upstream[0], client, head_only)

    def _takes(self, request):
        """Is this the request whose answer is to be lost?"""
        if self._swallow and self._swallow[1] in request:
            self._swallow[0] -= 1
            if self._swallow[0] == 0:
                self._swallow = None
            return True
        return False

    async def _answer(self, server, client, head_only):
        """Passes one answer on, every part as much later as the network is slow; True when the connection stays open."""
        parts, loop = asyncio.Queue(), asyncio.get_running_loop()

        async def deliver():
            while True:
                due, part = await parts.get()
                if part is None:
                    return
                await asyncio.sleep(max(0, due - loop.time()))
                await self._open.wait()
                self._counters.bytes_down += len(part)
                client.write(part)
                await client.drain()

        delivering = asyncio.create_task(deliver())
        try:
            keep = True
            async for part in _parts(server, request=False, head_only=head_only):
                if part is _UNTIL_CLOSE:
                    keep = False
                else:
                    parts.put_nowait((loop.time() + self.rtt_ms / 2000, part))
            parts.put_nowait((0, None))
            await delivering
            return keep
        finally:
            delivering.cancel()


_UNTIL_CLOSE = object()


async def _read_message(reader, request, head_only=False):
    """A whole request or answer as bytes; none at the end of the connection."""
    return b"".join([part async for part in _parts(reader, request, head_only) if part is not _UNTIL_CLOSE])


async def _parts(reader, request, head_only=False):
    """One HTTP message in pieces as they arrive (RFC 9112, section 6)."""
    while True:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as end:
            if end.partial or not request:
                raise EOFError("the connection ended inside a message") from None
            return
        yield head
        first, *lines = head.decode("latin-1").split("\r\n")
        code = 0 if request else int(first.split()[1])
        if not 100 <= code < 200:
            break
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if head_only or code in (204, 304):
        return
    if "chunked" in headers.get("transfer-encoding", "").lower():
        while True:
            size = await reader.readuntil(b"\r\n")
            length = int(size.split(b";")[0], 16)
            yield size + await reader.readexactly(length + 2)
            if length == 0:
                return
    elif "content-length" in headers:
        left = int(headers["content-length"])
        while left:
            part = await reader.read(min(left, CHUNK))
            if not part:
                raise EOFError("the connection ended inside a body")
            left -= len(part)
            yield part
    elif not request:
        yield _UNTIL_CLOSE
        while part := await reader.read(CHUNK):
            yield part


def _reset(writer):
    """Ends a connection so that the other side sees a reset, not an orderly end."""
    connection = writer.get_extra_info("socket")
    if connection is not None and connection.fileno() >= 0:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
