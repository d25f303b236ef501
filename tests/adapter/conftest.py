"""The adapter is tested with the interpreter that runs pytest: stdlib only, 3.11 or later.

    python3.11 -m pytest tests/adapter
"""

import sqlite3
import sys
from pathlib import Path

import pytest

from lib import outbox

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "adapter" / "src"))

from tenant_index.connect import connect


@pytest.fixture(scope="session", autouse=True)
def rclone():
    """Nothing here needs it."""


@pytest.fixture
def index(tmp_path):
    """Path of an index as tenant-init makes it."""
    return str(outbox.make_index(tmp_path / "memory.db"))


@pytest.fixture
def open_index(index):
    """Opens recording connections; arguments as for sqlite3.connect."""
    opened = []

    def open_one(**arguments):
        opened.append(connect(index, **{"timeout": 0, **arguments}))
        return opened[-1]

    yield open_one
    for connection in opened:
        try:
            connection.close()
        except sqlite3.Error:
            pass  # closed in the test


@pytest.fixture
def check_replay(index, tmp_path):
    """Replays the outbox, with few transactions and with many, and compares everything."""

    def check():
        expected = outbox.contents(index)
        for merge in (False, True):
            target = str(tmp_path / f"replayed-{merge}.db")
            Path(target).unlink(missing_ok=True)
            outbox.replay(index, target, merge)
            assert outbox.contents(target) == expected
        return outbox.entries(index)

    return check
