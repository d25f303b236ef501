"""What recording costs: the same statements on a stock connection and on a recording one, in turns, in microseconds each.

    python adapter/bench.py [folder]      a folder on tmpfs shows the adapter's own cost, without that of the disk
"""

import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPO / "adapter" / "src"), str(REPO / "tests")]

from lib import outbox  # noqa: E402
from tenant_index.connect import connect  # noqa: E402

ROUNDS, TIMES = 9, 500
INSERT = "INSERT INTO t(title, path, n, at) VALUES(?, ?, ?, ?)"
ROW = ("A title", "folder/a-title.md", 12345, "2026-01-01 12:00:00")


def in_transaction(connection: sqlite3.Connection) -> int:
    connection.execute("BEGIN")
    for _ in range(TIMES):
        connection.execute(INSERT, ROW)
    connection.rollback()
    return TIMES


def alone(connection: sqlite3.Connection) -> int:
    for _ in range(TIMES // 5):
        connection.execute(INSERT, ROW)
    return TIMES // 5


def no_effect(connection: sqlite3.Connection) -> int:
    for _ in range(TIMES):
        connection.execute("DELETE FROM t WHERE id = ?", (-1,))
    return TIMES


def many(connection: sqlite3.Connection) -> int:
    connection.execute("BEGIN")
    connection.executemany(INSERT, [ROW] * 1000)
    connection.rollback()
    return 1000


def select(connection: sqlite3.Connection) -> int:
    for _ in range(TIMES):
        connection.execute("SELECT title, n FROM t WHERE id = ?", (5,)).fetchone()
    return TIMES


def full_text(connection: sqlite3.Connection) -> int:
    connection.execute("BEGIN")
    for _ in range(TIMES // 5):
        connection.execute("INSERT INTO f(title, body) VALUES(?, ?)", ("A title", "some words of a note " * 20))
    connection.rollback()
    return TIMES // 5


def new_text(connection: sqlite3.Connection, counter: list[int] = [0]) -> int:  # noqa: B006 - counts across calls
    connection.execute("BEGIN")
    for _ in range(TIMES // 5):
        counter[0] += 1
        connection.execute(f"UPDATE t SET n = {counter[0]} WHERE id = 5")
    connection.rollback()
    return TIMES // 5


CASES: dict[str, Callable[[sqlite3.Connection], int]] = {
    "INSERT in a transaction": in_transaction,
    "INSERT with autocommit": alone,
    "DELETE of nothing": no_effect,
    "executemany, per row of 1000": many,
    "SELECT of one row": select,
    "INSERT into FTS5": full_text,
    "a text never seen before": new_text,
}


def main() -> None:
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as folder:
        index = str(outbox.make_index(f"{folder}/memory.db"))
        stock = outbox.stock(f"{folder}/stock.db", isolation_level=None)
        recording = connect(index, isolation_level=None)
        for connection in (stock, recording):
            connection.executescript(
                "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; CREATE VIRTUAL TABLE f USING fts5(title, body);"
                "CREATE TABLE t(id INTEGER PRIMARY KEY, title, path, n, at);"
            )
            connection.executemany(INSERT, [ROW] * 10)
        print(f"Python {sys.version.split()[0]}, SQLite {sqlite3.sqlite_version}")
        print(f"{'microseconds each':30}{'stock':>9}{'recorded':>10}{'more':>8}")
        for name, case in CASES.items():
            took: dict[sqlite3.Connection, list[float]] = {stock: [], recording: []}
            for _ in range(ROUNDS):
                for connection, times in took.items():
                    start = time.perf_counter()
                    count = case(connection)
                    times.append((time.perf_counter() - start) / count * 1e6)
            before, after = min(took[stock]), min(took[recording])  # the others were disturbed
            print(f"{name:30}{before:9.2f}{after:10.2f}{after - before:8.2f}")


if __name__ == "__main__":
    main()
