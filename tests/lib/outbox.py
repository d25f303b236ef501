"""The contract of docs/INDEX.md in executable form: makes an index, replays its outbox into another database, compares.

Everything here is stock sqlite3; the adapter under test must not be involved.
"""

import base64
import json
import sqlite3

_stock_connect = sqlite3.connect  # this module is imported before anyone installs the adapter

TABLES = """
CREATE TABLE _tenant_init_index(
  id INTEGER PRIMARY KEY CHECK (id = 1), format INTEGER NOT NULL, lineage TEXT NOT NULL, base INTEGER NOT NULL);
INSERT INTO _tenant_init_index VALUES(1, 1, 'test', 0);
CREATE TABLE _tenant_init_outbox(
  id INTEGER PRIMARY KEY AUTOINCREMENT, starts INTEGER NOT NULL, foreign_keys INTEGER NOT NULL,
  made_ms INTEGER NOT NULL, changes INTEGER, sql TEXT NOT NULL, rows TEXT NOT NULL);
"""
FIELDS = "id, starts, foreign_keys, changes, sql, rows"


def stock(path, **arguments):
    """A connection that records nothing."""
    return _stock_connect(path, **arguments)


def make_index(path):
    """A file as tenant-init makes it."""
    with stock(path) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.executescript(TABLES)
    connection.close()
    return path


def entries(path):
    """All rows of the outbox, as dictionaries."""
    connection = stock(path)
    connection.row_factory = sqlite3.Row
    try:
        return [dict(row) for row in connection.execute(f"SELECT {FIELDS} FROM _tenant_init_outbox ORDER BY id")]
    finally:
        connection.close()


def transactions(rows, merge=False):
    """Rows by transaction; merged: as few transactions as the contract allows."""
    group = []
    for row in rows:
        if group and row["starts"] and not (merge and row["foreign_keys"] == group[0]["foreign_keys"]):
            yield group
            group = []
        group.append(row)
    if group:
        yield group


def replay(source, target, merge=False):
    """Runs every recorded statement in `target`; whole transactions only. Returns how many transactions it took."""
    rows = entries(source)
    assert [row["id"] for row in rows] == list(range(1, len(rows) + 1)), "positions have gaps"
    connection = stock(target, isolation_level=None)
    count = 0
    try:
        for group in transactions(rows, merge):
            assert {row["foreign_keys"] for row in group} == {group[0]["foreign_keys"]}, "changed in a transaction"
            connection.execute(f"PRAGMA foreign_keys={group[0]['foreign_keys']}")
            connection.execute("BEGIN IMMEDIATE")
            for row in group:
                _run(connection, row)
            connection.execute("COMMIT")
            count += 1
    finally:
        connection.close()
    return count


def _run(connection, row):
    changes = 0
    for parameters in json.loads(row["rows"]):
        cursor = connection.execute(row["sql"], decode(parameters))
        cursor.fetchall()
        changes += cursor.rowcount
    if row["changes"] is not None:
        assert changes == row["changes"], f"{changes} rows changed instead of {row['changes']}: {row['sql']}"


def decode(parameters):
    if isinstance(parameters, dict):
        return {name: _value(value) for name, value in parameters.items()}
    return [_value(value) for value in parameters]


def _value(value):
    if not isinstance(value, dict):
        assert not isinstance(value, bool), "the contract has no booleans"
        return value
    ((kind, text),) = value.items()
    return base64.b64decode(text) if kind == "b" else {"Infinity": float("inf"), "-Infinity": float("-inf")}[text]


def contents(path_or_connection):
    """Schema and all rows with their rowids, without what stays on the machine."""
    given = not isinstance(path_or_connection, (str, bytes)) and hasattr(path_or_connection, "execute")
    connection = path_or_connection if given else stock(path_or_connection)
    try:
        return _contents(connection)
    finally:
        if not given:
            connection.close()


def _contents(connection):
    found = {}
    # How FTS5 cuts its index into segments depends on its version and on transactions; what is in it must be equal.
    fts = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE sql LIKE '%USING fts5%'")]
    segments = {f"{name}_{part}" for name in fts for part in ("data", "idx")}
    for name in fts:
        connection.execute("DROP TABLE IF EXISTS temp._vocabulary")
        connection.execute(f"CREATE VIRTUAL TABLE temp._vocabulary USING fts5vocab('main', '{name}', 'instance')")
        found["terms", name] = sorted(connection.execute("SELECT * FROM temp._vocabulary"), key=repr)
        connection.execute("DROP TABLE temp._vocabulary")
        if not connection.in_transaction:
            connection.execute(f'INSERT INTO "{name}"("{name}") VALUES(\'integrity-check\')')
            connection.rollback()
    for kind, name, table, sql in connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master").fetchall():
        if table.startswith(("_tenant_init_", "search_vector_", "sqlite_stat", "sqlite_sequence")):
            continue
        found[kind, name] = (table, sql)
        if kind == "table" and sql is not None and name not in segments:
            found["rows", name] = _rows(connection, name)
    if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'sqlite_sequence'").fetchone():
        found["sequence"] = sorted(
            row for row in connection.execute("SELECT name, seq FROM sqlite_sequence")
            if not row[0].startswith(("_tenant_init_", "search_vector_"))
        )
    return {key: value for key, value in found.items() if value != []}


def _rows(connection, table):
    try:
        return connection.execute(f'SELECT rowid, * FROM "{table}" ORDER BY rowid').fetchall()
    except sqlite3.OperationalError:  # WITHOUT ROWID
        return sorted(connection.execute(f'SELECT * FROM "{table}"').fetchall(), key=repr)
