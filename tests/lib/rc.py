"""rclone's remote control, over its unix socket."""

import http.client
import json
import socket
from pathlib import Path


class _Connection(http.client.HTTPConnection):
    def __init__(self, path, seconds):
        super().__init__("localhost", timeout=seconds)
        self.path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def call(path, command, seconds=10, **parameters):
    """One command, for example `call(sock, "vfs/refresh")`; its answer, or a ValueError with rclone's own words."""
    connection = _Connection(path, seconds)
    try:
        connection.request("POST", "/" + command, json.dumps(parameters), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        body = answer.read().decode()
        if answer.status != 200:
            raise ValueError(f"{command}: {answer.status} {body}")
        return json.loads(body)
    finally:
        connection.close()


def socket_below(folder):
    """The one socket below a folder on which rclone answers."""
    for path in sorted(Path(folder).rglob("*")):
        if path.is_socket():
            try:
                call(path, "rc/noop")
                return path
            except (OSError, ValueError):
                continue
    raise LookupError(f"no rclone answers on a socket below {folder}")
