"""The two copies of a tenant's index, its local file and its database, and whether they are the same."""

import re
import sqlite3
from contextlib import closing
from pathlib import Path

LEASE = "_tenant_init_lease"
OUTBOX = "_tenant_init_outbox"
# Ours; SQLite's own; vectors, which stay local because the server has no sqlite-vec.
_NOT_COMPARED = re.compile(r"_tenant_init_|sqlite_|libsql_|search_vector_")


class Snapshot:
    """What one copy holds. `run(sql)` gives its rows."""

    def __init__(self, name, run):
        self.name, self.run = name, run
        schema = run("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY name")
        virtual = [name for kind, name, _, sql in schema if kind == "table" and _is_virtual(sql)]
        self.full_text = [table for table in virtual if not _NOT_COMPARED.match(table)]
        shadows = {f"{table}_{part}" for table in virtual for part in ("data", "idx", "content", "docsize", "config")}
        own = {name: (kind, table, sql) for kind, name, table, sql in schema
               if name not in shadows and table not in shadows
               and not _NOT_COMPARED.match(name) and not _NOT_COMPARED.match(table)}
        self.tables = sorted(name for name, (kind, _, _) in own.items() if kind == "table")
        self._without_rowid = {name for name in self.tables if "WITHOUT ROWID" in _words(own[name][2]).upper()}
        # Tables are compared by their columns: ALTER TABLE leaves other words on the two sides, never another meaning.
        self.definitions = {f"{kind} {name}": _words(sql) for name, (kind, _, sql) in own.items() if kind != "table"}
        self.columns = {table: run(f"SELECT name, type, \"notnull\", dflt_value, pk, hidden FROM pragma_table_xinfo('{table}')")
                        for table in self.tables}
        self.rows = {table: self._rows(table) for table in self.tables}
        self.sequences = {}
        if any(name == "sqlite_sequence" for _, name, _, _ in schema):
            # The next id of an AUTOINCREMENT table: a difference here is a difference of rows tomorrow.
            self.sequences = {table: at for table, at in run("SELECT name, seq FROM sqlite_sequence") if table in own}

    def _rows(self, table):
        # Hidden columns of a virtual table (its own name, `rank`) have no content; generated ones (2, 3) have.
        names = ", ".join(f'"{column[0]}"' for column in self.columns[table] if column[5] != 1)
        if table in self._without_rowid:
            return dict(enumerate(self.run(f'SELECT {names} FROM "{table}"')))  # in the order of its key
        return {row[0]: row[1:] for row in self.run(f'SELECT rowid, {names} FROM "{table}" ORDER BY rowid')}

    def matches(self, table, word):
        return [row for row, in self.run(f"SELECT rowid FROM \"{table}\" WHERE \"{table}\" MATCH '\"{word}\"' ORDER BY rowid")]


def differences(memory_db, sqld, words=("zebra", "note", "main")):
    """What differs between a `memory.db` and a database, in words; an empty list when they are the same index.

    The file may be in use. `words` are looked up in the full-text index of both: equal rows could still be indexed differently.
    """
    with closing(copy(memory_db)) as local_file:
        local = Snapshot("the file", lambda sql: local_file.execute(sql).fetchall())
        remote = Snapshot("the database", sqld.query)
        found = []
        for table in sorted({*local.tables, *remote.tables}):
            if table not in remote.tables or table not in local.tables:
                found.append(f"table {table} is only in {(local if table in local.tables else remote).name}")
            elif local.columns[table] != remote.columns[table]:
                found.append(f"table {table} has other columns: {local.columns[table]} here, {remote.columns[table]} there")
            else:
                found += _compare(f"table {table}, row", local.rows[table], remote.rows[table])
        found += _compare("definition of", local.definitions, remote.definitions)
        found += _compare("next id of", local.sequences, remote.sequences)
        for table in {*local.full_text} & {*remote.full_text}:
            for word in words:
                here, there = local.matches(table, word), remote.matches(table, word)
                if here != there:
                    found.append(f"searching {table} for {word!r} finds rows {here} in the file, {there} in the database")
        return found


def _compare(what, here, there, shown=3):
    """Differences of two dictionaries: the first few, and how many there are."""
    found = [f"{what} {key}: {_short(here.get(key))} in the file, {_short(there.get(key))} in the database"
             for key in sorted({*here, *there}, key=str) if here.get(key, _short) != there.get(key, _short)]
    return found[:shown] + ([f"{what}: {len(found) - shown} more"] if len(found) > shown else [])


def _short(value):
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 300 else text[:300] + "…"


def _is_virtual(sql):
    return bool(sql) and _words(sql).upper().startswith("CREATE VIRTUAL TABLE")


def _words(sql):
    return " ".join(sql.split()) if sql else sql


def copy(memory_db):
    """One consistent moment of a file that somebody may be writing to, as a connection to a copy in memory."""
    memory_db = Path(memory_db)
    if not memory_db.exists():
        raise FileNotFoundError(memory_db)
    target = sqlite3.connect(":memory:")
    with closing(sqlite3.connect(f"file:{memory_db}?mode=ro", uri=True, timeout=10)) as source:
        source.backup(target)
    return target


def damage(sqld):
    """What the server's own checks say about the database's tables and its full-text index, in words."""
    said = [line for line, in sqld.query("SELECT * FROM pragma_integrity_check") if line != "ok"]
    said += [f"foreign key: {row}" for row in sqld.query("SELECT * FROM pragma_foreign_key_check")]
    for table, sql in sqld.query("SELECT name, sql FROM sqlite_schema WHERE type = 'table'"):
        if _is_virtual(sql) and "FTS5" in sql.upper():
            try:
                sqld.query(f"INSERT INTO \"{table}\"(\"{table}\") VALUES ('integrity-check')")
            except ValueError as error:
                said.append(f"full-text index {table}: {error}")
    return said


def outbox(memory_db):
    """Statements that are not in the database yet, oldest first: (id, made_ms, sql)."""
    with closing(copy(memory_db)) as file:
        return file.execute(f"SELECT id, made_ms, sql FROM {OUTBOX} ORDER BY id").fetchall()


def lease(sqld):
    """The row that is lease, fence, position and binding; none while there is none."""
    if LEASE not in sqld.tables():
        return None
    names = [name for name, in sqld.query(f"SELECT name FROM pragma_table_info('{LEASE}')")]
    rows = sqld.query(f"SELECT {', '.join(names)} FROM {LEASE}")
    assert len(rows) <= 1, f"{LEASE} has {len(rows)} rows: {rows}"
    return dict(zip(names, rows[0])) if rows else None


def stock_client_rows(sqld, sql):
    """The database as somebody else's program sees it: rows through the `libsql` package of PyPI."""
    import libsql  # only in the tests' environment, and not for every processor

    token = sqld.token() if sqld.key else ""
    connection = libsql.connect(f"http://127.0.0.1:{sqld.port}", auth_token=token)
    return connection.execute(sql).fetchall()
