"""The outbox of one connection: writes its rows and remembers what is known about statements.

Rows go through a temporary view whose trigger does the insert: that leaves `last_insert_rowid()` of the app alone,
because SQLite restores it after a trigger. The trigger inserts OR FAIL: a statement that could be undone in part needs a
savepoint, and at every savepoint FTS5 writes out what it has collected in memory.

Plans are kept per SQL text and are worth only as much as the schema they were made for. The schema's version is looked
at once per transaction, right after its first recorded statement: earlier would take a snapshot before the write and
so change how SQLite waits for other writers; from then on, nobody else can change the schema before the transaction
ends. After DDL of this connection nothing is kept until the next transaction, because a ROLLBACK brings the old
schema back.
"""

import contextlib
import sqlite3
import time
from typing import Protocol

from .classify import Context, Kind, Plan, classify
from .sqltext import parameter_names
from .values import Parameters, bindable

_UNKNOWN = -1
_KEPT_PLANS = 500
_RECORD = "INSERT INTO temp._tenant_init_record VALUES(?,?,?,?,?,?)"
_VIEW = (
    "CREATE TEMP VIEW IF NOT EXISTS _tenant_init_record AS"
    " SELECT starts, foreign_keys, made_ms, changes, sql, rows FROM main._tenant_init_outbox",
    # No schema in front of the table: a trigger may not have one. A name that temp does not have is looked up in main.
    "CREATE TEMP TRIGGER IF NOT EXISTS _tenant_init_record_insert INSTEAD OF INSERT ON _tenant_init_record BEGIN"
    " INSERT OR FAIL INTO _tenant_init_outbox(starts, foreign_keys, made_ms, changes, sql, rows)"
    " VALUES(NEW.starts, NEW.foreign_keys, NEW.made_ms, NEW.changes, NEW.sql, NEW.rows); END",
)


def run(connection: sqlite3.Connection, sql: str) -> None:
    """A statement of the adapter's own."""
    sqlite3.Cursor(connection).execute(sql)


def read_schema(connection: sqlite3.Connection) -> None:
    """Compiling alone does not notice that another connection has changed the schema; running does."""
    run(connection, "SELECT 1 FROM main.sqlite_master LIMIT 1")


def _number(connection: sqlite3.Connection, sql: str) -> int:
    return int(sqlite3.Cursor(connection).execute(sql).fetchone()[0])


class Batch(Protocol):
    def record(self) -> None: ...


class Outbox:
    __slots__ = ("batch", "context", "foreign_keys", "fresh", "plans", "recorded", "schema")

    def __init__(self) -> None:
        self.context = Context()
        self.plans: dict[str, Plan] = {}
        self.schema = _UNKNOWN
        # Nothing was recorded since the connection was last seen outside a transaction.
        self.fresh = True
        self.foreign_keys = 0
        self.recorded = 0
        # Rows that have run and are not recorded yet; to be recorded before anything else happens.
        self.batch: Batch | None = None

    @staticmethod
    def exists(connection: sqlite3.Connection) -> bool:
        found = "SELECT count(*) FROM main.sqlite_master WHERE type = 'table' AND name = '_tenant_init_outbox'"
        return _number(connection, found) > 0

    def prepare(self, connection: sqlite3.Connection) -> None:
        """Before a transaction, so that no ROLLBACK takes the view away again."""
        self.read_foreign_keys(connection)
        self.forget_plans()
        # In this order: what is compiled from now on is at least as new as this version.
        self.schema = _number(connection, "PRAGMA main.schema_version")
        read_schema(connection)
        for statement in _VIEW:
            run(connection, statement)

    def scope_changed(self, connection: sqlite3.Connection) -> None:
        """After DDL that is not recorded."""
        if connection.in_transaction:
            self._schema_changed()
        else:
            self.prepare(connection)

    def _schema_changed(self) -> None:
        self.schema = _UNKNOWN
        self.forget_plans()

    def plan(self, connection: sqlite3.Connection, sql: str, parameters: Parameters) -> Plan:
        names = parameter_names(sql) if isinstance(parameters, dict) else None
        bound = bindable(parameters, names)
        plan = classify(connection, self.context, sql, bound)
        if plan.kind is Kind.REFUSE:
            read_schema(connection)  # the reason may be gone
            return classify(connection, self.context, sql, bound)
        if self.schema != _UNKNOWN and plan.kind is not Kind.IDLE:
            if len(self.plans) >= _KEPT_PLANS:
                del self.plans[next(iter(self.plans))]
            self.plans[sql] = plan
        return plan

    def forget_plans(self) -> None:
        self.plans.clear()

    def read_foreign_keys(self, connection: sqlite3.Connection) -> None:
        value = _number(connection, "PRAGMA foreign_keys")
        if value != self.foreign_keys:
            self.foreign_keys = value
            self.forget_plans()  # foreign key actions are part of a statement

    def record(
        self, connection: sqlite3.Connection, plan: Plan, sql: str, sample: Parameters, changes: int, rows: str
    ) -> None:
        """Records what has just run; where this raises, the transaction must not be kept (`undo`)."""
        if plan.changes_schema:
            self._schema_changed()
        elif self.fresh and not self._still_recorded(connection, sql, sample):
            return
        counted = None if changes < 0 or plan.returns_rows else changes
        row = (int(self.fresh), self.foreign_keys, int(time.time() * 1000), counted, sql, rows)
        try:
            self._insert(connection, row)
        except sqlite3.Error as error:
            raise type(error)(
                f"tenant-index: the statement ran but could not be recorded ({error}); its transaction is rolled back, "
                f"because the index may hold nothing that the outbox does not: {shortened(sql)}"
            ) from error
        self.fresh = False
        self.recorded += 1

    def _still_recorded(self, connection: sqlite3.Connection, sql: str, sample: Parameters) -> bool:
        version = _number(connection, "PRAGMA main.schema_version")
        if version == self.schema:
            return True
        self.forget_plans()
        self.schema = version
        plan = self.plan(connection, sql, sample)
        if plan.kind is Kind.REFUSE:
            raise refusal(sql, plan.reason)
        return plan.kind is Kind.RECORD

    @staticmethod
    def _insert(connection: sqlite3.Connection, row: tuple[object, ...]) -> None:
        cursor = sqlite3.Cursor(connection)
        try:
            cursor.execute(_RECORD, row)
        except sqlite3.OperationalError as error:
            # Made in a transaction that was rolled back.
            if "_tenant_init_record" not in str(error):
                raise
            for statement in _VIEW:
                cursor.execute(statement)
            cursor.execute(_RECORD, row)


def undo(connection: sqlite3.Connection, own: bool = False) -> None:
    """Rolls back the app's transaction, whatever transaction control it has chosen, or one of the adapter's own."""
    with contextlib.suppress(sqlite3.Error):
        if not connection.in_transaction:
            return
        if not own and getattr(connection, "autocommit", None) is False:
            sqlite3.Connection.rollback(connection)  # it opens the next transaction as well
        else:
            run(connection, "ROLLBACK")


def refusal(sql: str, reason: str) -> sqlite3.NotSupportedError:
    return sqlite3.NotSupportedError(
        f"tenant-index: refused, because {reason}. Writes to the index are repeated in the tenant's database and must "
        f"give the same there; pass values as parameters instead. Statement: {shortened(sql)}"
    )


def shortened(sql: str) -> str:
    text = " ".join(sql.split())
    return text if len(text) <= 500 else text[:500] + " ..."
