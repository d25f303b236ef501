"""A libSQL server: `sqld`, what Turso runs."""

import json
import os
import shutil
import urllib.request
from pathlib import Path

from .proc import Process
from .wait import free_port, listening, wait_until


class Sqld:
    """An empty database at `url`; kept in `folder` when stopped and started again."""

    def __init__(self, folder, port=None, binary=None):
        self.data = Path(folder) / "sqld"
        self.port = port or free_port()
        self.binary = binary or os.environ.get("SQLD") or shutil.which("sqld") or "sqld"
        self.process = Process("sqld", Path(folder))

    @property
    def url(self):
        """For `DATABASE_URL`."""
        return f"libsql://127.0.0.1:{self.port}?tls=0"

    def start(self):
        self.process.spawn([self.binary, "--db-path", self.data, "--http-listen-addr", f"127.0.0.1:{self.port}"])
        wait_until(lambda: self._up(), 30, lambda: f"sqld on port {self.port}: {self.process.stderr()[-500:]}")
        return self

    def _up(self):
        if not self.process.running():
            raise RuntimeError(f"it ended: {self.process.stderr()[-500:]}")
        return listening(self.port)

    def stop(self):
        self.process.stop()

    def kill(self):
        self.process.kill()

    def suspend(self):
        self.process.suspend()

    def resume(self):
        self.process.resume()

    def query(self, sql, *args):
        """Rows of one statement, as lists of text (Hrana over HTTP)."""
        body = {"requests": [
            {"type": "execute", "stmt": {"sql": sql, "args": [{"type": "text", "value": str(a)} for a in args]}},
            {"type": "close"},
        ]}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/v2/pipeline", json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=10) as answer:
            result = json.load(answer)["results"][0]
        if result["type"] != "ok":
            raise ValueError(result["error"]["message"])
        return [[column.get("value") for column in row] for row in result["response"]["result"]["rows"]]
