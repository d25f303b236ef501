"""Waiting for a condition instead of sleeping, and ports nobody uses."""

import socket
import time


def wait_until(condition, seconds=30, what=None, every=0.05):
    """Calls `condition` until it returns something true and returns that.

    An exception inside counts as "not yet"; the last one is named when the time is up. `what` is a text or a function
    that gives one (for example the state at the end).
    """
    deadline = time.monotonic() + seconds
    last = None
    while True:
        try:
            value = condition()
            if value:
                return value
        except (OSError, ValueError, LookupError, AssertionError) as error:
            last = error
        if time.monotonic() > deadline:
            said = what() if callable(what) else what or getattr(condition, "__name__", "condition")
            raise TimeoutError(f"not within {seconds} s: {said}" + (f" (last error: {last!r})" if last else ""))
        time.sleep(every)


_given = set()


def free_port():
    """A TCP port on the loopback interface that nobody listens on, never the same one twice.

    Below the range the kernel takes outgoing ports from (32768 and up), so that no connection made meanwhile gets it.
    """
    import random

    while True:
        port = random.randrange(20000, 32000)
        if port in _given:
            continue
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given.add(port)
        return port


def listening(port, host="127.0.0.1"):
    """Does somebody accept connections there?"""
    try:
        socket.create_connection((host, port), 1).close()
        return True
    except OSError:
        return False
