"""A bucket at the other end of a network, and everything that can go wrong between it and a tenant."""

from pathlib import Path

from lib.dns import NameServer
from lib.faultproxy import FaultProxy
from lib.s3 import S3Server
from lib.wire import Wire

NAME = "bucket.tenant-init.test"
SLOW = b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>'
BROKEN = b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>InternalError</Code><Message>We encountered an internal error.</Message></Error>'
# Longer than a probe waits for an answer (4 s), shorter than rclone does (10 s): uploads get through.
SLOW_MS = 6000

# What is done to a sky when the drop begins. The end is the same for all: `heal`.
DROPS = {
    "refused": lambda sky: sky.proxy.refuse(),
    "blackhole": lambda sky: sky.wire.lose_everything(),
    "answers lost": lambda sky: sky.wire.lose_answers(),
    "requests lost": lambda sky: sky.wire.lose_requests(),
    "slow": lambda sky: setattr(sky.proxy, "rtt_ms", SLOW_MS),
    "500": lambda sky: sky.proxy.status(500, BROKEN),
    "503 SlowDown": lambda sky: sky.proxy.status(503, SLOW),
    "DNS gone": lambda sky: setattr(sky.names, "silent", True),
}


class Sky:
    """`prefix` starts a program that resolves the endpoint's name here, in a mount namespace of its own."""

    def __init__(self, folder):
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.server = S3Server(folder)
        self.wire = Wire()
        self.proxy = FaultProxy(self.server.port, wire=self.wire)
        self.names = NameServer(NAME, self.wire.address)
        self.prefix = self.names.prefix(folder)

    def start(self):
        self.server.start()
        self.proxy.start()
        return self

    def close(self):
        self.proxy.close()
        self.names.close()
        self.wire.close()
        self.server.kill()

    @property
    def endpoint(self):
        return f"http://{NAME}:{self.proxy.port}"

    def env(self):
        return {**self.server.env(), "AWS_ENDPOINT_URL_S3": self.endpoint}

    def heal(self):
        """The network is as it should be, and the server runs."""
        self.names.silent = False
        self.proxy.rtt_ms = 0
        self.wire.heal()
        self.proxy.ok()
        if not self.server.process.running():
            self.server.start()

    def contents(self, name):
        """Bytes of the object, or None."""
        try:
            return (self.server.path / name).read_bytes()
        except FileNotFoundError:
            return None
