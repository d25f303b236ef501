"""Runs statements as sqlite3 does and has the outbox record those that write.

Recording happens at statement time, in the statement's own transaction; so nothing here knows how transactions end.
Only a statement that sqlite3 would run outside any transaction gets one from here, together with its record. It is a
plain BEGIN: the statement then waits for the write lock exactly as it would have alone.
"""

import itertools
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn, Self, cast

from . import sqltext
from .classify import Kind, Plan, is_clock_word
from .outbox import Outbox, read_schema, refusal, run, shortened, undo
from .returning import serve
from .values import Parameters, bindable, encode, text_values

if TYPE_CHECKING:
    from .connection import RecordingConnection

# One row of the outbox takes this many rows of an executemany, or this much text.
_CHUNK_ROWS = 500
_CHUNK_CHARACTERS = 1_000_000
_SELECT = frozenset({"SELECT", "select"})
_LEGACY = getattr(sqlite3, "LEGACY_TRANSACTION_CONTROL", -1)
_NOTHING = object()

_execute = sqlite3.Cursor.execute
_executemany = sqlite3.Cursor.executemany
_executescript = sqlite3.Cursor.executescript


class RecordingCursor(sqlite3.Cursor):
    def execute(self, sql: str, parameters: Any = (), /) -> Self:
        if not isinstance(sql, str) or sql[:6] in _SELECT:
            return _execute(self, sql, parameters)
        connection, outbox = self._tenant_outbox()
        if outbox.batch is not None:
            outbox.batch.record()
        if not connection.in_transaction:
            outbox.fresh = True
        plan = outbox.plans.get(sql)
        if plan is None:
            if sql.lstrip()[:6].upper() == "SELECT":  # not worth a place among the plans
                return _execute(self, sql, parameters)
            try:
                plan = outbox.plan(connection, sql, parameters)
            except Exception as error:
                self._tenant_fail_as_stock(_execute, sql, parameters, error)
        if plan.kind is Kind.PASS:
            return _execute(self, sql, parameters)
        if plan.kind is Kind.RECORD:
            try:
                bound = _checked(plan, sql, parameters)
            except Exception as error:
                self._tenant_fail_as_stock(_execute, sql, parameters, error)
            if connection.in_transaction or (plan.begins_implicitly and _begins_implicitly(connection)):
                return self._tenant_record(plan, sql, bound)
            return self._tenant_alone(plan, sql, bound)
        return self._tenant_other(plan, sql, parameters)

    def executemany(self, sql: str, rows: Iterable[Any], /) -> Self:
        if not isinstance(sql, str):
            return _executemany(self, sql, rows)
        connection, outbox = self._tenant_outbox()
        if outbox.batch is not None:
            outbox.batch.record()
        if not connection.in_transaction:
            outbox.fresh = True
        steady = isinstance(rows, (list, tuple))
        rows = iter(rows)
        try:
            first = next(rows, _NOTHING)
        except Exception as error:
            return _executemany(self, sql, _failing(error))
        if first is _NOTHING:
            return _executemany(self, sql, ())
        rows = itertools.chain((first,), rows)
        try:
            plan = outbox.plans.get(sql) or outbox.plan(connection, sql, cast(Parameters, first))
        except Exception as error:
            self._tenant_fail_as_stock(_executemany, sql, rows, error)
        if plan.kind is Kind.REFUSE:
            raise refusal(sql, plan.reason)
        if plan.kind is not Kind.RECORD:
            return _executemany(self, sql, rows)
        if plan.returns_rows:
            # sqlite3 says so only after it has run the first row.
            raise sqlite3.ProgrammingError("executemany() can only execute DML statements.")
        return self._tenant_record_many(plan, sql, rows, steady)

    def executescript(self, sql_script: str, /) -> Self:
        if not isinstance(sql_script, str) or "\0" in sql_script:
            _executescript(self, sql_script)  # raises
            return self
        _executescript(self, "")  # commits, where sqlite3 does
        connection, _ = self._tenant_outbox()
        for statement in sqltext.split(sql_script):
            RecordingCursor(connection)._tenant_script_statement(statement)
        return self

    # ---- one statement ----

    def _tenant_outbox(self) -> "tuple[RecordingConnection, Outbox]":
        connection = cast("RecordingConnection", self.connection)
        return connection, connection._tenant_outbox

    def _tenant_fail_as_stock(self, run_stock: Callable[..., Any], sql: str, parameters: Any, error: Exception) -> NoReturn:
        """Values that cannot be bound: sqlite3 finds that out later, when it has opened a transaction already."""
        if not isinstance(error, (sqlite3.OperationalError, sqlite3.NotSupportedError)):
            run_stock(self, sql, parameters)
            undo(self._tenant_outbox()[0])  # it was expected to raise
        raise error

    def _tenant_record(self, plan: Plan, sql: str, bound: Parameters) -> Self:
        connection, outbox = self._tenant_outbox()
        ran = False
        total = connection.total_changes if plan.only_touches else -1
        try:
            _execute(self, sql, bound)
            ran = True
            if total == connection.total_changes:
                return self  # recording nothing keeps it from writing to the file, which other connections would notice
            outbox.record(connection, plan, sql, bound, self.rowcount, f"[{encode(bound)}]")
        except BaseException as error:
            # An interrupt may have come between the statement and its record.
            if ran or not isinstance(error, Exception):
                undo(connection)
            raise
        return self

    def _tenant_alone(self, plan: Plan, sql: str, bound: Parameters) -> Self:
        connection, _ = self._tenant_outbox()
        run(connection, "BEGIN")
        rows: list[Any] = []
        try:
            self._tenant_record(plan, sql, bound)
            if plan.returns_rows:
                rows = sqlite3.Cursor.fetchall(self)
            self._tenant_commit()
        except BaseException:
            undo(connection, own=True)
            raise
        if plan.returns_rows:
            serve(self, rows)
        return self

    def _tenant_commit(self) -> None:
        connection, _ = self._tenant_outbox()
        if connection.in_transaction:  # no longer after OR ROLLBACK, or when undone
            try:
                run(connection, "COMMIT")
            except BaseException:
                undo(connection, own=True)
                raise

    def _tenant_other(self, plan: Plan, sql: str, parameters: Any) -> Self:
        connection, outbox = self._tenant_outbox()
        if plan.kind is Kind.REFUSE:
            raise refusal(sql, plan.reason)
        if plan.kind is Kind.IDLE:
            return self._tenant_idle(sql, parameters)
        try:
            return _execute(self, sql, parameters)
        finally:
            if plan.kind is Kind.FOREIGN_KEYS:
                outbox.read_foreign_keys(connection)
            else:
                outbox.scope_changed(connection)

    def _tenant_idle(self, sql: str, parameters: Any) -> Self:
        """DDL that found nothing to do: asked again in the transaction it runs in, as another process may be faster."""
        connection, outbox = self._tenant_outbox()
        alone = not connection.in_transaction
        if alone:
            run(connection, "BEGIN")
        try:
            read_schema(connection)
            plan = outbox.plan(connection, sql, parameters)
            if plan.kind is Kind.RECORD:
                self._tenant_record(plan, sql, _checked(plan, sql, parameters))
            elif plan.kind is Kind.IDLE:
                _execute(self, sql, parameters)
            else:
                self._tenant_other(plan, sql, parameters)
        except BaseException:
            if alone:
                undo(connection, own=True)
            raise
        if alone:
            self._tenant_commit()
        return self

    def _tenant_script_statement(self, sql: str) -> None:
        connection, outbox = self._tenant_outbox()
        if connection.in_transaction:
            self.execute(sql).fetchall()
            return
        outbox.fresh = True
        plan = outbox.plans.get(sql) or outbox.plan(connection, sql, ())
        if plan.kind is Kind.RECORD:
            self._tenant_alone(plan, sql, _checked(plan, sql, ()))
        elif plan.kind is Kind.PASS:
            _executescript(self, sql)  # no transaction before it, unlike execute
        else:
            self._tenant_other(plan, sql, ())
            sqlite3.Cursor.fetchall(self)

    # ---- many rows ----

    def _tenant_record_many(self, plan: Plan, sql: str, rows: Iterator[Any], steady: bool) -> Self:
        connection, outbox = self._tenant_outbox()
        outer, batch = outbox.batch, _Batch(self, plan, sql, steady)
        outbox.batch = batch
        try:
            try:
                _executemany(self, sql, batch.feed(rows))
            finally:
                # Rows before a failing one are in the transaction, if there still is one.
                if connection.in_transaction:
                    batch.record()
        except BaseException as error:
            if batch.failed or not isinstance(error, Exception):
                undo(connection)
            raise
        finally:
            outbox.batch = outer
            if batch.alone:
                self._tenant_commit()
        return self


class _Batch:
    """Rows of one executemany on their way to the outbox; a row counts once sqlite3 asks for the next.

    Between two rows the app's own iterator runs, and may use the connection: whatever it does there first has the rows
    before it recorded (`Outbox.batch`). Outside a transaction each row has one of its own, as in sqlite3; all share one
    only if nobody could tell the difference: the rows are a list (`steady`) and an error concerns one row only.
    """

    def __init__(self, cursor: RecordingCursor, plan: Plan, sql: str, steady: bool) -> None:
        self.share = steady and not plan.fails_with_others
        self.cursor, self.plan, self.sql = cursor, plan, sql
        self.rows: list[str] = []
        self.characters = 0
        self.changed = 0
        self.total = cursor.connection.total_changes
        self.sample: Parameters = ()
        self.failed = False
        self.alone = False

    def feed(self, rows: Iterator[Any]) -> Iterator[Parameters]:
        connection, outbox = self.cursor._tenant_outbox()
        for row in rows:
            bound = _checked(self.plan, self.sql, row)
            if not connection.in_transaction:
                run(connection, "BEGIN")
                self.alone = outbox.fresh = True
            yield bound
            failed, self.failed = self.failed, True
            encoded = encode(bound)
            self.failed = failed
            self.rows.append(encoded)
            self.characters += len(encoded)
            self.sample = bound
            if self.alone and not self.share:
                self.record()
                self.alone = False
                self.cursor._tenant_commit()
            elif len(self.rows) >= _CHUNK_ROWS or self.characters >= _CHUNK_CHARACTERS:
                self.record()

    def record(self) -> None:
        if self.failed:
            raise sqlite3.OperationalError(f"tenant-index: earlier rows could not be recorded: {shortened(self.sql)}")
        if not self.rows:
            return
        connection, outbox = self.cursor._tenant_outbox()
        self.failed = True
        changed = self.cursor.rowcount
        if not self.plan.only_touches or connection.total_changes != self.total:
            changes = changed - self.changed if changed >= 0 else -1
            outbox.record(connection, self.plan, self.sql, self.sample, changes, f"[{','.join(self.rows)}]")
        self.failed = False
        self.rows.clear()
        self.characters, self.changed, self.total = 0, changed, connection.total_changes


def _failing(error: Exception) -> Iterator[Any]:
    raise error
    yield


def _begins_implicitly(connection: sqlite3.Connection) -> bool:
    return connection.isolation_level is not None and getattr(connection, "autocommit", _LEGACY) == _LEGACY


def _checked(plan: Plan, sql: str, parameters: Any) -> Parameters:
    bound = bindable(parameters, plan.names)
    if plan.asks_dates and any(is_clock_word(text) for text in text_values(bound)):
        raise refusal(sql, "a date function would be given 'now' or the time zone of this machine")
    return bound
