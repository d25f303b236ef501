"""Stages on which a tenant can be held still, so that a fault hits it exactly there."""

import http.server
import os
import threading
from contextlib import contextmanager

from .s3 import rclone
from .wait import wait_until


class HeldRclone:
    """An rclone whose first start waits: `env()` names it as `mount.rclone`.

    The first process that is started as it makes `held` and goes on (by exec, as the same process) when `release` was called.
    Later ones are plain rclone at once.
    """

    def __init__(self, folder):
        self.program, self.held, self.go = folder / "held-rclone", folder / "held", folder / "go"
        self.program.write_text(f"""#!/bin/sh
case " $* " in *" --cache-dir "*)
    if mkdir {self.held} 2>/dev/null; then while [ ! -e {self.go} ]; do sleep 0.02; done; fi ;;
esac
exec {rclone()} "$@"
""")
        self.program.chmod(0o755)

    def env(self):
        return {"TENANT_INIT_MOUNT__RCLONE": str(self.program)}

    def await_held(self):
        wait_until(self.held.exists, 30, "rclone is started")

    def release(self):
        self.go.touch()


@contextmanager
def slow_broker():
    """A broker that takes every question and answers none: its URL, and an event that is set when it was asked."""
    asked, over = threading.Event(), threading.Event()

    class Broker(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.set()
            over.wait(60)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Broker)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/tenant", asked
    finally:
        over.set()
        server.shutdown()


def processes_naming(text):
    """Command lines of the processes in whose arguments the text is."""
    found = {}
    for entry in os.listdir("/proc"):
        try:
            words = open(f"/proc/{entry}/cmdline", "rb").read() if entry.isdigit() else b""
        except OSError:
            continue
        if str(text).encode() in words:
            found[int(entry)] = words.replace(b"\0", b" ").decode(errors="replace")
    return found
