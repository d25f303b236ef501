"""Statement and record live and die together, whatever ends the transaction; `starts` never lies."""

import sqlite3

import pytest

NEW = hasattr(sqlite3.Connection, "autocommit")


@pytest.fixture
def connection(open_index):
    connection = open_index()
    connection.executescript("CREATE TABLE t(a INTEGER PRIMARY KEY, b UNIQUE); CREATE TABLE child(a REFERENCES t(a) DEFERRABLE INITIALLY DEFERRED)")
    return connection


def recorded(entries):
    return [(entry["starts"], entry["sql"]) for entry in entries[2:]]


INSERT = "INSERT INTO t(b) VALUES(?)"


def test_a_savepoint_as_transaction(connection, check_replay):
    connection.execute("SAVEPOINT outer")
    connection.execute(INSERT, (1,))
    connection.execute("SAVEPOINT inner")
    connection.execute(INSERT, (2,))
    connection.execute("ROLLBACK TO inner")
    connection.execute(INSERT, (3,))
    connection.execute("RELEASE outer")
    assert not connection.in_transaction
    assert [entry["rows"] for entry in check_replay()[2:]] == ["[[1]]", "[[3]]"]
    assert [entry["starts"] for entry in check_replay()[2:]] == [1, 0]


def test_commit_and_rollback_inside_sqlite3(connection, check_replay):
    with connection:
        connection.execute(INSERT, (1,))
    with pytest.raises(RuntimeError), connection:
        connection.execute(INSERT, (2,))
        raise RuntimeError
    connection.execute(INSERT, (3,))
    connection.isolation_level = None  # commits
    connection.isolation_level = ""
    connection.execute(INSERT, (4,))
    connection.commit()
    connection.execute(INSERT, (5,))
    connection.close()
    assert [entry["rows"] for entry in check_replay()[2:]] == ["[[1]]", "[[3]]", "[[4]]"]
    assert [entry["starts"] for entry in check_replay()[2:]] == [1, 1, 1]


def test_or_rollback_takes_the_record_with_it(connection, check_replay):
    connection.execute(INSERT, (1,))
    connection.commit()
    connection.execute(INSERT, (2,))
    with pytest.raises(sqlite3.IntegrityError):
        connection.execute("INSERT OR ROLLBACK INTO t(b) VALUES(1)")
    assert not connection.in_transaction
    connection.execute(INSERT, (3,))
    connection.commit()
    assert [entry["rows"] for entry in check_replay()[2:]] == ["[[1]]", "[[3]]"]


def test_a_transaction_that_begins_with_what_stays_here(connection, check_replay):
    connection.execute("CREATE TABLE search_vector_x(a)")
    connection.execute("INSERT INTO search_vector_x VALUES(1)")
    assert connection.in_transaction
    connection.execute(INSERT, (1,))
    connection.execute(INSERT, (2,))
    connection.commit()
    assert recorded(check_replay()) == [(1, INSERT), (0, INSERT)]


@pytest.mark.parametrize("mode", [{"isolation_level": None}] + ([{"autocommit": True}] if NEW else []))
def test_a_statement_without_transaction_gets_one(open_index, connection, check_replay, mode):
    connection.close()
    connection = open_index(**mode)
    connection.execute(INSERT, (1,))
    assert not connection.in_transaction
    with pytest.raises(sqlite3.IntegrityError):
        connection.execute(INSERT, (1,))
    connection.execute("PRAGMA foreign_keys = ON")
    with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"):
        connection.execute("INSERT INTO child VALUES(99)")
    assert not connection.in_transaction
    cursor = connection.execute("INSERT INTO t(b) VALUES(5), (6) RETURNING a, b")
    assert (cursor.rowcount, cursor.description[1][0], cursor.fetchone(), list(cursor), cursor.fetchall()) == (2, "b", (2, 5), [(3, 6)], [])
    assert cursor.execute("SELECT 1").fetchall() == [(1,)]
    cursor = connection.execute("DELETE FROM t WHERE b > 4 RETURNING b")
    assert cursor.fetchmany(5) == [(5,), (6,)]
    cursor.close()
    with pytest.raises(sqlite3.ProgrammingError):
        cursor.fetchone()
    with pytest.raises(sqlite3.IntegrityError):
        connection.executemany(INSERT, [(7,), (8,), (1,), (9,)])
    assert [row[0] for row in connection.execute("SELECT b FROM t ORDER BY b")] == [1, 7, 8]
    with pytest.raises(sqlite3.IntegrityError):
        connection.executemany("INSERT OR ROLLBACK INTO t(b) VALUES(?)", [(10,), (1,), (11,)])
    with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"):
        connection.executemany("INSERT INTO child VALUES(?)", [(1,), (99,), (1,)])
    assert connection.execute("SELECT count(*) FROM child").fetchone() == (1,)
    assert [(entry["starts"], entry["changes"]) for entry in check_replay()[2:]] == [(1, 1), (1, None), (1, None)] + [(1, 1)] * 4


@pytest.mark.skipif(not NEW, reason="new in Python 3.12")
def test_autocommit_false(open_index, connection, check_replay):
    connection.close()
    connection = open_index(autocommit=False)
    other = open_index()
    other.execute(INSERT, (0,))
    other.commit()
    connection.execute(INSERT, (1,))  # its first transaction has no snapshot older than this
    connection.execute(INSERT, (2,))
    connection.commit()
    connection.execute(INSERT, (3,))
    connection.rollback()
    with connection:
        connection.execute(INSERT, (4,))
        connection.execute(INSERT, (5,))
    assert [(entry["starts"], entry["rows"]) for entry in check_replay()[2:]] == [
        (1, "[[0]]"), (1, "[[1]]"), (0, "[[2]]"), (1, "[[4]]"), (0, "[[5]]"),
    ]  # fmt: skip


def test_many_rows_are_recorded_in_chunks(connection, check_replay):
    connection.executemany(INSERT, ((n,) for n in range(1234)))
    connection.executemany(INSERT, [("x" * 400_000 + str(n),) for n in range(5)])
    connection.commit()
    entries = check_replay()[2:]
    assert [(entry["starts"], entry["changes"]) for entry in entries] == [(1, 500), (0, 500), (0, 234), (0, 3), (0, 2)]


def test_rows_before_a_failing_one_are_recorded(connection, check_replay):
    cursor = connection.cursor()
    with pytest.raises(sqlite3.IntegrityError):
        cursor.executemany(INSERT, [(1,), (2,), (1,), (3,)])
    with pytest.raises(sqlite3.Error):
        cursor.executemany(INSERT, [(4,), (object(),), (5,)])

    def breaks():
        yield (6,)
        raise KeyError("input")

    with pytest.raises(KeyError):
        cursor.executemany(INSERT, breaks())
    assert cursor.executemany(INSERT, []) is cursor
    connection.commit()
    assert [entry["rows"] for entry in check_replay()[2:]] == ["[[1],[2]]", "[[4]]", "[[6]]"]


def test_an_interrupt_between_statement_and_record_rolls_back(connection, check_replay):
    def interrupted():
        yield (1,)
        raise KeyboardInterrupt

    connection.execute(INSERT, (0,))
    with pytest.raises(KeyboardInterrupt):
        connection.executemany(INSERT, interrupted())
    assert not connection.in_transaction
    assert check_replay()[2:] == []


@pytest.mark.parametrize("mode", [{}, {"isolation_level": None}] + ([{"autocommit": False}] if NEW else []))
def test_a_statement_that_cannot_be_recorded_does_not_stay(open_index, connection, check_replay, mode):
    connection.close()
    connection = open_index(**mode)
    connection.execute(INSERT, (1,))
    connection.commit()
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.commit()
    connection.execute(f"PRAGMA max_page_count = {pages}").fetchall()
    connection.commit()
    connection.execute("UPDATE t SET b = 3")  # fits; its record does once
    connection.commit()
    with pytest.raises(sqlite3.OperationalError, match="full"):
        for n in range(100):
            connection.execute(f"UPDATE t SET b = {n} /* {'long' * 200} */")
    connection.close()
    connection = open_index(**mode)
    connection.execute(INSERT, (77,))
    connection.commit()
    check_replay()


def test_a_script_commits_first_and_records_each_statement(connection, check_replay):
    connection.execute(INSERT, (1,))
    connection.executescript("""
        -- ; a comment
        INSERT INTO t(b) VALUES('a;b'); /* ; */ BEGIN;
        CREATE TRIGGER tr AFTER DELETE ON t BEGIN INSERT INTO t(b) VALUES('x'); INSERT INTO t(b) VALUES('y'); END;
        DELETE FROM t WHERE b = 1; COMMIT;
        WITH q AS (SELECT 9) INSERT INTO t(b) SELECT * FROM q RETURNING a; SELECT * FROM t; ;
        INSERT INTO t(b) VALUES('last')""")
    assert not connection.in_transaction
    entries = check_replay()[2:]
    assert [entry["starts"] for entry in entries] == [1, 1, 1, 0, 1, 1]
    with pytest.raises(sqlite3.OperationalError, match="syntax"):
        connection.executescript("INSERT INTO t(b) VALUES('kept'); nonsense; INSERT INTO t(b) VALUES('never')")
    assert len(check_replay()) == 2 + 7


def test_what_the_app_sees_of_the_connection(connection, check_replay):
    cursor = connection.execute(INSERT, (1,))
    assert (cursor.lastrowid, cursor.rowcount, connection.total_changes) == (1, 1, 1)
    connection.execute("INSERT INTO t(a, b) VALUES(50, 50)")
    connection.execute("CREATE TABLE auto(a INTEGER PRIMARY KEY AUTOINCREMENT)")
    assert connection.execute("SELECT last_insert_rowid()").fetchone() == (50,)
    connection.execute("PRAGMA temp_store = MEMORY") if not connection.in_transaction else connection.commit()
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.text_factory = bytes
    connection.row_factory = sqlite3.Row
    assert connection.execute("INSERT INTO t(b) VALUES('é') RETURNING b").fetchone()["b"] == "é".encode()
    connection.commit()
    check_replay()


def test_foreign_keys_are_recorded(connection, check_replay):
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute(INSERT, (1,))
    connection.execute("PRAGMA foreign_keys = OFF")  # does nothing inside a transaction
    connection.execute(INSERT, (2,))
    connection.commit()
    connection.execute("PRAGMA foreign_keys = OFF")
    connection.execute("INSERT INTO child VALUES(99)")
    connection.commit()
    assert [entry["foreign_keys"] for entry in check_replay()[2:]] == [1, 1, 0]


@pytest.mark.parametrize("mode", [{}, {"isolation_level": None}] + ([{"autocommit": False}, {"autocommit": True}] if NEW else []))
@pytest.mark.parametrize("fails", [False, True])
def test_an_iterator_that_uses_the_connection(open_index, connection, check_replay, tmp_path, mode, fails):
    """Its statements and commits stand between the rows, in the outbox as well."""
    connection.close()

    def rows(connection):
        for n in range(12):
            if n % 3 == 1:
                connection.execute("DELETE FROM t WHERE b = ?", (n - 1,))
            if n in (2, 7):
                connection.commit()
            if n == 5:
                connection.rollback()
            if n == 9:
                connection.executemany(INSERT, [("nested", ), ("rows", )])
            yield (n if n < 11 or not fails else object(),)

    def run(connection):
        try:
            connection.executemany(INSERT, rows(connection))
        except sqlite3.Error:
            pass
        state = connection.in_transaction
        connection.commit()
        return state, connection.execute("SELECT * FROM t ORDER BY a").fetchall()

    stock = sqlite3.connect(tmp_path / "stock.db", **mode)
    stock.execute("CREATE TABLE t(a INTEGER PRIMARY KEY, b UNIQUE)")
    stock.commit()
    assert run(open_index(**mode)) == run(stock)
    stock.close()
    check_replay()
