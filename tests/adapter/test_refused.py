"""Writes that would not give the same elsewhere are refused before they run; what only looks like one is not."""

import sqlite3

import pytest

SCHEMA = """
CREATE TABLE t(a INTEGER PRIMARY KEY, b, at DEFAULT CURRENT_TIMESTAMP);
CREATE TABLE r(a, b DEFAULT (random()));
CREATE TABLE triggered(a);
CREATE TABLE parent(id INTEGER PRIMARY KEY);
CREATE TABLE child(p DEFAULT (random()) REFERENCES parent(id) ON DELETE SET DEFAULT, x);
CREATE TABLE checked(a UNIQUE ON CONFLICT FAIL);
CREATE TABLE replaced(a, b AS (abs(a)) STORED, c AS (date(a)));
CREATE VIEW v AS SELECT a, random() AS r FROM t;
CREATE TRIGGER tr AFTER INSERT ON triggered BEGIN INSERT INTO t(b, at) VALUES(datetime('now'), 1); END;
CREATE TABLE search_vector_chunks(id INTEGER PRIMARY KEY, updated_at DEFAULT CURRENT_TIMESTAMP);
CREATE VIRTUAL TABLE f USING fts5(x);
"""


@pytest.fixture
def connection(open_index):
    connection = open_index(isolation_level=None)
    connection.executescript(SCHEMA)
    connection.create_function("own", 1, lambda x: x, deterministic=True)
    connection.create_function("lower", 1, lambda x: "LOWER", deterministic=True)
    connection.create_collation("mine", lambda a, b: (a > b) - (a < b))
    connection.execute("CREATE TEMP TABLE scratch(a)")
    connection.execute("ATTACH ':memory:' AS other")
    connection.execute("CREATE TABLE other.o(a)")
    connection.execute("INSERT INTO t(a, b, at) VALUES(1, 2, 3)")
    return connection


REFUSED = [
    ("INSERT INTO t(b) VALUES(1)", "current_timestamp"),
    ("INSERT INTO t(b, at) VALUES(random(), 1)", "random"),
    ("INSERT INTO t(b, at) VALUES(hex(randomblob(4)), 1)", "randomblob"),
    ("INSERT INTO t(b, at) VALUES(CURRENT_TIME, CURRENT_DATE)", "current_"),
    ("INSERT INTO t(b, at) VALUES(datetime('now'), 1)", "datetime"),
    ("INSERT INTO t(b, at) VALUES(datetime(), 1)", "datetime"),
    ("INSERT INTO t(b, at) VALUES(datetime('2020-01-01', 'localtime'), 1)", "datetime"),
    ("INSERT INTO t(b, at) VALUES(strftime('%s'), 1)", "strftime"),
    ("INSERT INTO t(b, at) VALUES(last_insert_rowid(), 1)", "last_insert_rowid"),
    ("INSERT INTO t(b, at) VALUES(changes(), total_changes())", "changes"),
    ("INSERT INTO t(b, at) VALUES(sqlite_version(), 1)", "sqlite_version"),
    ("INSERT INTO t(b, at) VALUES(own(1), 1)", "own"),
    ("INSERT INTO t(b, at) VALUES(lower('X'), 1)", "lower"),
    ("INSERT INTO t(b, at) SELECT b, at FROM t ORDER BY b COLLATE mine", "mine"),
    ("CREATE TABLE c(a COLLATE mine)", "mine"),
    ("CREATE TABLE c(a CHECK (own(a) > 0))", "own"),
    ("CREATE TABLE c AS SELECT random() AS r", "random"),
    ("INSERT INTO r(a) VALUES(1)", "random"),
    ("INSERT INTO triggered VALUES(1)", "datetime"),
    ("DELETE FROM parent", "random"),
    ("INSERT INTO t(b, at) SELECT r, 1 FROM v", "random"),
    ("UPDATE t SET b = 1 WHERE b = random()", "random"),
    ("WITH x AS (SELECT random() AS r) INSERT INTO t(b, at) SELECT r, 1 FROM x", "random"),
    ("INSERT INTO t(b, at) SELECT a, 1 FROM scratch", "temp"),
    ("INSERT INTO t(b, at) SELECT a, 1 FROM other.o", "other"),
    ("INSERT INTO t(b, at) SELECT id, 1 FROM search_vector_chunks", "search_vector_chunks"),
    ("INSERT INTO t(b, at) SELECT name, 1 FROM sqlite_master", "sqlite_master"),
    ("INSERT INTO t(b, at) SELECT name, 1 FROM pragma_table_info('t')", "pragma_table_info"),
    ("INSERT INTO t(b, at) SELECT sql, 1 FROM _tenant_init_outbox", "_tenant_init_outbox"),
    ("DELETE FROM _tenant_init_outbox", "_tenant_init_outbox"),
    ("DROP TABLE _tenant_init_index", "_tenant_init_index"),
    ("CREATE INDEX i ON _tenant_init_outbox(sql)", "_tenant_init_outbox"),
    ("ALTER TABLE _tenant_init_outbox ADD COLUMN x", "_tenant_init_outbox"),
    ("INSERT OR FAIL INTO child(p, x) VALUES(1, 1)", None),
    ("INSERT INTO checked VALUES(1)", "FAIL"),
    ("CREATE TEMP TRIGGER tt AFTER INSERT ON t BEGIN DELETE FROM t; END", "temporary trigger"),
    ("CREATE VIRTUAL TABLE vt USING dbstat", "dbstat"),
    ("VACUUM", "rowids"),
    ("PRAGMA user_version = 3", "user_version"),
    ("PRAGMA main . writable_schema=1", "writable_schema"),
    ("PRAGMA recursive_triggers(1)", "recursive_triggers"),
    ("/* x */ PRAGMA defer_foreign_keys = ON", "defer_foreign_keys"),
]


@pytest.mark.parametrize(("sql", "names"), [case for case in REFUSED if case[1]])
def test_refused_before_it_runs(connection, sql, names):
    connection.execute("PRAGMA foreign_keys = ON")
    total = connection.total_changes
    with pytest.raises(sqlite3.NotSupportedError) as refused:
        connection.execute(sql)
    assert names in str(refused.value)
    assert sql.split()[-1][:20] in str(refused.value)
    assert (connection.total_changes, connection.in_transaction) == (total, False)
    with pytest.raises(sqlite3.NotSupportedError):
        connection.executescript(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO t(b, at) VALUES(datetime('2020-01-01', '+1 day'), json_extract('{\"a\":1}', '$.a'))",
        "INSERT INTO t(b, at) SELECT count(*), max(upper(b)) FROM t WHERE b LIKE 'x%'",
        "INSERT INTO replaced(a) VALUES('2020-01-01')",
        "INSERT INTO f SELECT value FROM json_each('[1, 2]')",
        "UPDATE t SET b = 'random()', at = \"b\" -- random()",
        "CREATE TABLE ok(a DEFAULT CURRENT_TIMESTAMP, b DEFAULT (random()))",
        "CREATE TRIGGER ok AFTER DELETE ON t BEGIN INSERT INTO r(a) VALUES(random()); END",
        "DROP VIEW v",
        "INSERT OR ABORT INTO child(p, x) VALUES(1, 1)",
    ],
)
def test_recorded(connection, check_replay, sql):
    connection.execute(sql)
    assert check_replay()[-1]["sql"] == sql


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT random(), own(1), datetime('now'), last_insert_rowid()",
        "WITH x AS (SELECT random()) SELECT * FROM x",
        "INSERT INTO scratch SELECT random()",
        "INSERT INTO other.o SELECT b FROM t",
        "INSERT INTO search_vector_chunks(id) VALUES(4)",
        "CREATE INDEX sv ON search_vector_chunks(updated_at)",
        "CREATE TABLE search_vector_more(a)",
        "DROP TABLE search_vector_chunks",
        "CREATE TABLE IF NOT EXISTS t(a)",
        "DROP TABLE IF EXISTS absent",
        "UPDATE t SET b = 1 WHERE a = 77",
        "ANALYZE", "REINDEX", "PRAGMA journal_mode", "PRAGMA user_version", "PRAGMA busy_timeout = 7", "PRAGMA temp_store = MEMORY",
        "PRAGMA table_info(t)", "EXPLAIN INSERT INTO t VALUES(random(), 1, 1)", "VALUES(random())", "", "-- nothing", ";",
    ],
)  # fmt: skip
def test_not_recorded(connection, check_replay, sql):
    before = len(check_replay())
    connection.execute(sql).fetchall()
    connection.execute("INSERT INTO t(b, at) VALUES(8, 8)")
    entries = check_replay()
    assert [entry["sql"] for entry in entries[before:]] == ["INSERT INTO t(b, at) VALUES(8, 8)"]


@pytest.mark.parametrize("now", ["now", " NOW ", "localtime"])
def test_now_as_a_value_is_refused_for_that_value_only(connection, check_replay, now):
    sql = "INSERT INTO t(b, at) VALUES(datetime(?), 1)"
    connection.execute(sql, ("2020-01-01",))
    with pytest.raises(sqlite3.NotSupportedError, match="'now'"):
        connection.execute(sql, (now,))
    with pytest.raises(sqlite3.NotSupportedError):
        connection.executemany(sql, [("2021-01-01",), (now,), ("2022-01-01",)])
    assert [row["rows"] for row in check_replay()[-2:]] == ['[["2020-01-01"]]', '[["2021-01-01"]]']


def test_a_function_defined_later_is_noticed(connection):
    connection.execute("INSERT INTO t(b, at) VALUES(upper('x'), 1)")
    connection.create_function("UPPER", 1, lambda x: x)
    with pytest.raises(sqlite3.NotSupportedError, match="upper"):
        connection.execute("INSERT INTO t(b, at) VALUES(upper('x'), 1)")


def test_a_trigger_made_by_another_connection_is_noticed_before_commit(connection, open_index, check_replay):
    sql = "INSERT INTO parent VALUES(?)"
    connection.execute(sql, (1,))
    other = open_index()
    other.execute("CREATE TRIGGER late AFTER INSERT ON parent BEGIN INSERT INTO r(a) VALUES(1); END")
    connection.execute("BEGIN")
    with pytest.raises(sqlite3.NotSupportedError, match="random"):
        connection.execute(sql, (2,))
    assert not connection.in_transaction
    other.execute("DROP TRIGGER late")
    connection.execute(sql, (3,))
    assert [row[0] for row in connection.execute("SELECT id FROM parent")] == [1, 3]
    check_replay()


def test_what_would_bypass_the_record_is_refused(connection, open_index):
    with pytest.raises(sqlite3.NotSupportedError, match="blobopen"):
        connection.blobopen("t", "b", 1)
    connection.execute("UPDATE t SET b = x'01'")
    with connection.blobopen("t", "b", 1, readonly=True) as blob:
        assert blob.read() == b"\x01"
    with pytest.raises(sqlite3.NotSupportedError, match="deserialize"):
        connection.deserialize(connection.serialize())
    with pytest.raises(sqlite3.NotSupportedError, match="backup"):
        connection.backup(open_index())
    with pytest.raises(sqlite3.NotSupportedError, match="factory"):
        connection.cursor(lambda c: sqlite3.Cursor(c))


@pytest.mark.skipif(not hasattr(sqlite3.Connection, "setconfig"), reason="new in Python 3.12")
def test_setconfig(connection, check_replay):
    connection.setconfig(sqlite3.SQLITE_DBCONFIG_ENABLE_FKEY, True)
    connection.execute("INSERT INTO parent VALUES(5)")
    assert check_replay()[-1]["foreign_keys"] == 1
    with pytest.raises(sqlite3.NotSupportedError):
        connection.setconfig(sqlite3.SQLITE_DBCONFIG_ENABLE_TRIGGER, False)


def test_the_authorizer_of_the_app_stays(connection):
    connection.set_authorizer(lambda *_: sqlite3.SQLITE_DENY)
    with pytest.raises(sqlite3.DatabaseError, match="not authorized"):
        connection.execute("INSERT INTO parent VALUES(9)")
    connection.set_authorizer(None)
    connection.execute("INSERT INTO parent VALUES(9)")
