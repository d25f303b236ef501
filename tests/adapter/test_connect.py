"""Which connections record; everything else is stock sqlite3."""

import _sqlite3
import pathlib
import sqlite3
import subprocess
import sys
import threading

import pytest

from lib import outbox
from tenant_index.connect import connect
from tenant_index.connection import RecordingConnection

ADAPTER = pathlib.Path(__file__).resolve().parents[2] / "adapter"


@pytest.mark.parametrize("name", [str, lambda p: p.encode(), pathlib.Path, lambda p: f"file:{p}?mode=rw", lambda p: f"file://localhost{p}"])
def test_every_way_to_name_the_file(index, name):
    uri = str(name(index)).startswith("file:")
    connection = connect(name(index), uri=uri)
    assert isinstance(connection, RecordingConnection)
    connection.close()
    connection = connect(database=name(index), uri=uri, timeout=1.5)
    assert isinstance(connection, RecordingConnection)
    connection.close()
    connection = connect(name(index), 5.0, 0, "", True, sqlite3.Connection, 128, uri)
    assert isinstance(connection, RecordingConnection)
    connection.close()


def test_a_quoted_uri(tmp_path):
    (tmp_path / "a b").mkdir()
    path = outbox.make_index(tmp_path / "a b" / "memory.db")
    assert isinstance(connect(str(path).replace(" ", "%20").join(["file:", "#x"]), uri=True), RecordingConnection)


def test_everything_else_is_stock(index, tmp_path):
    empty = tmp_path / "empty" / "memory.db"
    empty.parent.mkdir()
    broken = tmp_path / "broken" / "memory.db"
    broken.parent.mkdir()
    broken.write_text("no database" * 100)
    outbox.make_index(tmp_path / "other.db")
    for name, uri in [
        (":memory:", False), ("", False), (empty, False), (empty, False), (tmp_path / "other.db", False), (broken, False),
        (f"file:{index}?mode=ro", True), (f"file:{index}?cache=private&immutable=1", True), ("file::memory:?cache=shared", True),
    ]:  # fmt: skip
        connection = connect(name, uri=uri)
        assert type(connection) is sqlite3.Connection
        connection.close()
    with pytest.raises(TypeError):
        connect()
    with pytest.raises(TypeError):
        connect(3.5)


def test_the_apps_own_classes(index, check_replay):
    class Own(sqlite3.Connection):
        def shout(self):
            return "own"

    class OwnCursor(sqlite3.Cursor):
        def execute(self, sql, parameters=()):
            return super().execute(sql.replace("{table}", "t"), parameters)

    connection = connect(index, factory=Own)
    assert connection.shout() == "own" and isinstance(connection, RecordingConnection)
    connection.execute("CREATE TABLE t(a)")
    assert connection.cursor(OwnCursor).execute("INSERT INTO {table} VALUES(1)").rowcount == 1
    connection.commit()
    with pytest.raises(sqlite3.NotSupportedError, match="factory"):
        connect(index, factory=lambda *a, **k: sqlite3.Connection(*a))
    connection.close()
    assert check_replay()[-1]["sql"] == "INSERT INTO t VALUES(1)"


def python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False,
        env={"PYTHONPATH": str(ADAPTER / "src"), **environment},
    )  # fmt: skip


def test_autoload_reaches_every_name_of_connect(index):
    done = python(
        "import tenant_index.autoload, sqlite3, _sqlite3; from sqlite3 import dbapi2\n"
        f"for c in (sqlite3, dbapi2, _sqlite3): print(type(c.connect({index!r})).__name__)"
    )
    assert done.stdout.split() == ["RecordingConnection"] * 3, done.stderr
    assert sqlite3.connect is not connect and _sqlite3.connect is not connect, "the tests themselves stay stock"


@pytest.mark.parametrize("present", [True, False])
def test_the_pth_file(tmp_path, index, present):
    """`site` reads it at start; without the package the interpreter still starts, and says so in one line."""
    (tmp_path / "tenant_index.pth").write_text((ADAPTER / "tenant_index.pth").read_text())
    done = python(
        f"import site; site.addsitedir({str(tmp_path)!r}); import sqlite3; print(type(sqlite3.connect({index!r})).__name__)",
        PYTHONPATH=str(ADAPTER / "src") if present else "",
    )
    assert done.stdout.strip() == ("RecordingConnection" if present else "Connection")
    assert len(done.stderr.splitlines()) == (0 if present else 1), done.stderr


def test_several_connections_write_at_once(index, check_replay):
    connect(index).executescript("CREATE TABLE t(a INTEGER PRIMARY KEY AUTOINCREMENT, who, n)")
    errors = []

    def work(who):
        try:
            connection = connect(index, timeout=30)
            connection.execute("PRAGMA synchronous = OFF")
            for n in range(40):
                with connection:
                    connection.execute("INSERT INTO t(who, n) VALUES(?, ?)", (who, n))
                    connection.executemany("INSERT INTO t(who, n) VALUES(:who, :n)", [{"who": who, "n": n}] * 3)
                    if n % 7 == 0:
                        connection.execute("DELETE FROM t WHERE who = ? AND n < ?", (who, n - 5))
            connection.close()
        except Exception as error:  # noqa: BLE001 - reported by the test
            errors.append(error)

    threads = [threading.Thread(target=work, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    entries = check_replay()
    assert sum(entry["starts"] for entry in entries) == 1 + 4 * 40
