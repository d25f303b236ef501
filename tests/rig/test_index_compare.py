"""The comparison that the index tests trust finds what it must find, and the database server answers as Turso does."""

import sqlite3
from contextlib import closing

import pytest

from lib import index
from lib.sqld import Sqld, SqldError

SCHEMA = [
    "CREATE TABLE entity(id INTEGER PRIMARY KEY AUTOINCREMENT, title TEXT NOT NULL, score REAL, body BLOB, "
    "upper TEXT GENERATED ALWAYS AS (upper(title)) VIRTUAL)",
    "CREATE INDEX entity_title ON entity(title)",
    "CREATE VIRTUAL TABLE search_index USING fts5(title, content, tokenize = 'unicode61')",
    "CREATE TRIGGER entity_gone AFTER DELETE ON entity BEGIN DELETE FROM search_index WHERE rowid = old.id; END",
    "CREATE TABLE search_vector_index(id INTEGER)",
    "CREATE TABLE _tenant_init_outbox(id INTEGER)",
]
ROWS = [
    ("INSERT INTO entity(title, score, body) VALUES (?, ?, ?)", "Zoo", 1.5, b"\x00\xff"),
    ("INSERT INTO entity(title, score, body) VALUES (?, ?, ?)", "Größe", None, None),
    ("INSERT INTO search_index(rowid, title, content) VALUES (?, ?, ?)", 1, "Zoo", "a zebra"),
    ("INSERT INTO search_index(rowid, title, content) VALUES (?, ?, ?)", 2, "Größe", "a note"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory, sqld_binary):
    server = Sqld(tmp_path_factory.mktemp("sqld"), binary=sqld_binary, auth=True)
    server.start()
    server.execute(*SCHEMA, *ROWS)
    yield server
    server.kill()


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "memory.db"
    with closing(sqlite3.connect(path)) as local, local:
        local.execute("PRAGMA journal_mode = wal")
        for statement in SCHEMA:
            local.execute(statement)
        for sql, *args in ROWS:
            local.execute(sql, args)
    return path


def change(path, *statements):
    with closing(sqlite3.connect(path)) as local, local:
        for statement in statements:
            local.execute(statement)


def test_the_same_index_has_no_differences(file, server):
    assert index.differences(file, server) == []
    assert index.damage(server) == []


def test_ours_and_vectors_are_not_compared(file, server):
    change(file, "INSERT INTO _tenant_init_outbox VALUES (1)", "INSERT INTO search_vector_index VALUES (1)",
           "CREATE TABLE search_vector_other(a)", "CREATE TABLE _tenant_init_index(a)")
    assert index.differences(file, server) == []


@pytest.mark.parametrize("statement, said", [
    ("UPDATE entity SET score = 1.25 WHERE id = 1", "table entity, row 1"),
    ("UPDATE entity SET score = 2 WHERE id = 2", "2.0"),
    ("UPDATE entity SET id = 7 WHERE id = 2", "table entity, row 7"),
    ("UPDATE entity SET body = 'x' WHERE id = 1", "table entity, row 1"),
    ("INSERT INTO search_index(title, content) VALUES ('more', 'x')", "table search_index, row 3"),
    ("DROP INDEX entity_title", "definition of index entity_title"),
    ("DROP TRIGGER entity_gone", "definition of trigger entity_gone"),
    ("CREATE TABLE further(a)", "table further is only in the file"),
    ("ALTER TABLE entity ADD COLUMN more TEXT", "table entity has other columns"),
    ("UPDATE sqlite_sequence SET seq = 9", "next id of entity"),
])
def test_a_difference_is_said(file, server, statement, said):
    change(file, statement)
    found = index.differences(file, server)
    assert said in " ".join(found), found


def test_equal_rows_that_cannot_be_found_are_a_difference(file, server):
    change(file, "DELETE FROM search_index WHERE rowid = 1", "INSERT INTO search_index_content VALUES (1, 'Zoo', 'a zebra')")
    assert index.differences(file, server) == ["searching search_index for 'zebra' finds rows [] in the file, [1] in the database"]


def test_a_file_in_use_is_read_at_one_moment(file, server):
    with closing(sqlite3.connect(file, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("DELETE FROM entity")
        assert index.differences(file, server) == []


def test_the_lease_row(server):
    assert index.lease(server) is None
    server.execute("CREATE TABLE _tenant_init_lease(id INTEGER, holder TEXT, epoch INTEGER)",
                   ("INSERT INTO _tenant_init_lease VALUES (1, ?, ?)", "me", 2**60))
    assert index.lease(server) == {"id": 1, "holder": "me", "epoch": 2**60}
    server.query("DROP TABLE _tenant_init_lease")


def test_a_stock_client_reads_it(server):
    pytest.importorskip("libsql", reason="the libsql package has no build for this machine")
    assert index.stock_client_rows(server, "SELECT id, title, score, body FROM entity ORDER BY id") == [
        (1, "Zoo", 1.5, b"\x00\xff"), (2, "Größe", None, None)]


def test_tokens(server):
    server.tenants_token, before = server.token(), server.token
    assert server.query("SELECT 1") == [(1,)]
    for token, statement, status in [("nonsense", "SELECT 1", 401), (server.token(lifetime=-600), "SELECT 1", 401),
                                     (server.token(access="ro"), "DELETE FROM entity", 403)]:
        server.token = lambda *_: token
        try:
            with pytest.raises(SqldError) as error:
                server.query(statement)
            assert error.value.status == status
        finally:
            server.token = before
    old = server.token()
    server.revoke()
    assert server.query("SELECT count(*) FROM entity") == [(2,)]
    server.token = lambda *_: old
    try:
        with pytest.raises(SqldError, match="401"):
            server.query("SELECT 1")
        server.restore_keys()
        assert server.query("SELECT 1") == [(1,)]
    finally:
        server.token = before
