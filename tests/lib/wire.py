"""A network with real packets that can be lost on their way, in one direction or both.

    this machine ── router ── far end          (two network namespaces, two pairs of virtual interfaces)

Packets are lost inside the router, where neither end hears of it: a packet that a machine's own queue drops is sent again
sooner than one that a network loses.
"""

import ctypes
import os
import random
import socket
import subprocess
import threading

_libc = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNET = 0x40000000


def _ip(*words):
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"ip {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


class Wire:
    """Needs root and iproute2. `address` is the far end's; `listen` gives sockets there. Gone with `close`."""

    def __init__(self):
        self.lost = set()
        for left in reversed(range(20)):
            try:
                return self._build(random.randrange(1, 250))
            except OSError:
                # Somebody else has just taken the number.
                self.close()
                if not left:
                    raise

    def _build(self, number):
        self.name, net = f"wire{number}-{os.getpid() % 100000}", f"10.213.{number}"
        self.near, self.address = f"{net}.1", f"{net}.6"
        self.router, self.far = f"{self.name}r", f"{self.name}f"
        a, b, c, d = (f"w{number}{end}" for end in "abcd")
        self.inner = b
        _ip("netns", "add", self.router)
        _ip("netns", "add", self.far)
        _ip("link", "add", a, "type", "veth", "peer", "name", b, "netns", self.router)
        _ip("-n", self.router, "link", "add", c, "type", "veth", "peer", "name", d, "netns", self.far)
        for where, device, address in (((), a, f"{net}.1/30"), (("-n", self.router), b, f"{net}.2/30"),
                                       (("-n", self.router), c, f"{net}.5/30"), (("-n", self.far), d, f"{net}.6/30")):
            _ip(*where, "addr", "add", address, "dev", device)
            _ip(*where, "link", "set", device, "up")
        _ip("route", "add", f"{net}.4/30", "via", f"{net}.2")
        _ip("-n", self.far, "route", "add", "default", "via", f"{net}.5")
        forward = "echo 1 > /proc/sys/net/ipv4/ip_forward"
        subprocess.run(["ip", "netns", "exec", self.router, "sh", "-c", forward], check=True)

    def close(self):
        for space in (self.router, self.far):
            subprocess.run(["ip", "netns", "del", space], capture_output=True)

    def _lose(self, address):
        _ip("-n", self.router, "route", "add", "blackhole", f"{address}/32")
        self.lost.add(address)

    def lose_requests(self):
        """From now on nothing arrives at the far end; what it sends does."""
        self._lose(self.address)

    def lose_answers(self):
        """From now on nothing comes back; what is sent arrives."""
        self._lose(self.near)

    def lose_everything(self):
        self.lose_requests()
        self.lose_answers()

    def heal(self):
        for address in list(self.lost):
            _ip("-n", self.router, "route", "del", "blackhole", f"{address}/32")
            self.lost.remove(address)

    def packets(self):
        """How many this machine has sent so far."""
        out = subprocess.run(["ip", "netns", "exec", self.router, "cat", f"/sys/class/net/{self.inner}/statistics/rx_packets"],
                             capture_output=True, text=True, check=True).stdout
        return int(out)

    def listen(self, port):
        """A socket that listens at the far end; whoever has it may be anywhere on this machine."""
        made = []

        def enter():
            # A thread of its own: the namespace is one of a thread.
            with open(f"/run/netns/{self.far}") as space:
                if _libc.setns(space.fileno(), CLONE_NEWNET) != 0:
                    return made.append(OSError(ctypes.get_errno(), "setns"))
            try:
                made.append(socket.create_server((self.address, port), backlog=128))
            except OSError as error:
                made.append(error)

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        if isinstance(made[0], OSError):
            raise made[0]
        return made[0]
