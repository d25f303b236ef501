"""A server that tests start, stop, kill and silence."""

from .wait import listening, wait_until


class Server:
    """Has `process` (a `proc.Process`), `host` and `port`. Stopped, it refuses connections; suspended, it is silent."""

    host = "127.0.0.1"

    def await_listening(self):
        """Until it accepts connections. Fails at once when it has ended."""
        what = lambda: f"{type(self).__name__} on {self.host}:{self.port}: {self.process.stderr()[-500:]}"  # noqa: E731
        wait_until(self._up, 30, what)

    def _up(self):
        if not self.process.running():
            raise RuntimeError(f"it ended: {self.process.stderr()[-500:]}")
        return listening(self.port, self.host)

    def stop(self):
        self.process.stop()

    def kill(self):
        self.process.kill()

    def suspend(self):
        self.process.suspend()

    def resume(self):
        self.process.resume()
