"""What a statement does, as SQLite itself says it.

A write is compiled once with EXPLAIN before it runs for the first time. Two things are read from that:

* the authorizer's calls: every table, column, function, trigger and view it touches, and in which database;
* the program: functions that only a DEFAULT, a generated column or a foreign key action brings in, conflict handling
  that keeps half a statement (OR FAIL), whether it writes at all, whether it returns rows. The programs of triggers
  are listed with it.

Only the first word decides beforehand what cannot write at all; that keeps reads at the speed of plain sqlite3.
"""

import itertools
import re
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, TypeAlias

from . import rules, sqltext
from .values import Parameters

Event: TypeAlias = tuple[int, str | None, str | None, str | None, str | None]
Authorizer: TypeAlias = Callable[[int, str | None, str | None, str | None, str | None], int]


class Kind(Enum):
    PASS = auto()  # not recorded: reads, transaction control, tables that stay here
    RECORD = auto()
    REFUSE = auto()
    FOREIGN_KEYS = auto()  # PRAGMA foreign_keys
    SCOPE = auto()  # not recorded, but what a name means may be different afterwards (ATTACH, local tables)
    IDLE = auto()  # DDL that has nothing to do (IF NOT EXISTS)


@dataclass(slots=True)
class Plan:
    kind: Kind
    reason: str = ""
    changes_schema: bool = False
    begins_implicitly: bool = False
    returns_rows: bool = False
    only_touches: bool = False  # UPDATE or DELETE: where no row changed, nothing did
    fails_with_others: bool = False  # an error would take other rows of the transaction with it
    asks_dates: bool = False  # uses a date function: no value may say 'now'
    names: tuple[str, ...] = field(default=())


@dataclass(slots=True)
class Context:
    """What the app has set up on a connection and SQLite cannot be asked for."""

    functions: set[str] = field(default_factory=set)
    collations: set[str] = field(default_factory=set)
    authorizer: Authorizer | None = None


_READS = frozenset({"SELECT", "VALUES", "EXPLAIN", "BEGIN", "COMMIT", "END", "ROLLBACK", "SAVEPOINT", "RELEASE"})
_CAN_WRITE = re.compile(r"\b(?:INSERT|UPDATE|DELETE|REPLACE)\b", re.IGNORECASE)
_MAINTENANCE = frozenset({"REINDEX", "ANALYZE"})
_DDL_WORDS = frozenset({"CREATE", "DROP", "ALTER"})
_CREATE_TEMP_TRIGGER = sqlite3.SQLITE_CREATE_TEMP_TRIGGER
_DML = (sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_DELETE)
# Where the name of the table stands in the authorizer's call.
_DDL = {
    sqlite3.SQLITE_CREATE_TABLE: 1, sqlite3.SQLITE_CREATE_TEMP_TABLE: 1, sqlite3.SQLITE_DROP_TABLE: 1,
    sqlite3.SQLITE_DROP_TEMP_TABLE: 1, sqlite3.SQLITE_CREATE_INDEX: 2, sqlite3.SQLITE_CREATE_TEMP_INDEX: 2,
    sqlite3.SQLITE_DROP_INDEX: 2, sqlite3.SQLITE_DROP_TEMP_INDEX: 2, sqlite3.SQLITE_CREATE_TRIGGER: 2,
    sqlite3.SQLITE_CREATE_TEMP_TRIGGER: 2, sqlite3.SQLITE_DROP_TRIGGER: 2, sqlite3.SQLITE_DROP_TEMP_TRIGGER: 2,
    sqlite3.SQLITE_CREATE_VIEW: 1, sqlite3.SQLITE_CREATE_TEMP_VIEW: 1, sqlite3.SQLITE_DROP_VIEW: 1,
    sqlite3.SQLITE_DROP_TEMP_VIEW: 1, sqlite3.SQLITE_ALTER_TABLE: 2, sqlite3.SQLITE_CREATE_VTABLE: 1,
    sqlite3.SQLITE_DROP_VTABLE: 1,
}  # fmt: skip
_FUNCTION_OPCODES = frozenset({"Function", "PureFunc", "AggStep", "AggStep1", "AggInverse", "AggFinal", "AggValue"})
_ON_CONFLICT_ROLLBACK, _ON_CONFLICT_FAIL = 1, 3
_CONFLICT_FAILS = "a conflict (OR FAIL, RAISE(FAIL)) would keep the rows before it, half a statement"
_NUMBERS = itertools.count()


def classify(connection: sqlite3.Connection, context: Context, sql: str, parameters: Parameters) -> Plan:
    """Raises what sqlite3 raises, where the statement does not compile."""
    word, start = sqltext.first_word(sql)
    if not word or word in _READS or word in _MAINTENANCE:
        return Plan(Kind.PASS)
    if word == "WITH" and not _CAN_WRITE.search(sql):
        return Plan(Kind.PASS)
    if word in ("ATTACH", "DETACH"):
        return Plan(Kind.SCOPE)
    if word == "PRAGMA":
        return _pragma(sqltext.words(sql, start, 6))
    if word == "VACUUM":
        if "INTO" in (part.upper() for part in sqltext.words(sql, start, 4)):
            return Plan(Kind.PASS)
        return _refused("VACUUM gives new rowids to the rows of tables without INTEGER PRIMARY KEY; use VACUUM INTO")
    events, program = _compile(connection, context, sql[start:], parameters)
    writes = any(row[1] == "Transaction" and row[3] for row in program)
    if not writes:
        return Plan(Kind.IDLE if word in _DDL_WORDS else Kind.PASS)
    return _judge(connection, context, sql, events, program)


def _refused(reason: str) -> Plan:
    return Plan(Kind.REFUSE, reason)


def _pragma(words: list[str]) -> Plan:
    if len(words) > 2 and words[2] == ".":
        del words[1:3]
    name = words[1].lower() if len(words) > 1 else ""
    sets = len(words) > 2 and words[2] in ("=", "(")
    if name == "foreign_keys" and sets:
        return Plan(Kind.FOREIGN_KEYS)
    if name == "temp_store" and sets:  # drops all that is temporary
        return Plan(Kind.SCOPE)
    if name in rules.REFUSED_PRAGMAS and sets:
        return _refused(f"PRAGMA {name} changes what is in the file or what a write does, and cannot be recorded")
    return Plan(Kind.PASS)


def _compile(
    connection: sqlite3.Connection, context: Context, sql: str, parameters: Parameters
) -> tuple[list[Event], list[tuple[Any, ...]]]:
    events: list[Event] = []

    def watch(action: int, *names: str | None) -> int:
        events.append((action, *names))  # type: ignore[arg-type]
        return sqlite3.SQLITE_OK

    text_factory = connection.text_factory
    cursor = sqlite3.Cursor(connection)
    sqlite3.Connection.set_authorizer(connection, None)
    connection.text_factory = bytes  # the app's own may be anything, and names need not be UTF-8
    try:
        # Once without watching: SQLite may have to read the schema and to open virtual tables, which do things of their
        # own. The number keeps sqlite3 from taking a statement from its cache: only preparing one asks the authorizer, and
        # makes SQLite forget an earlier error, which sqlite3 would otherwise report for a value that cannot be bound.
        sqlite3.Cursor.execute(cursor, f"EXPLAIN /*{next(_NUMBERS)}*/ {sql}", parameters).fetchall()
        sqlite3.Connection.set_authorizer(connection, watch)
        program = sqlite3.Cursor.execute(cursor, f"EXPLAIN /*{next(_NUMBERS)}*/ {sql}", parameters).fetchall()
    finally:
        connection.text_factory = text_factory
        sqlite3.Connection.set_authorizer(connection, context.authorizer)
    return events, [tuple(v.decode(errors="replace") if isinstance(v, bytes) else v for v in row) for row in program]


def _judge(
    connection: sqlite3.Connection, context: Context, sql: str, events: list[Event], program: list[tuple[Any, ...]]
) -> Plan:
    dml = {(event[3] or "", (event[1] or "").lower()) for event in events if event[0] in _DML}
    dml = {(database, table) for database, table in dml if table not in rules.SCHEMA_TABLES}
    ddl = {_ddl_target(event) for event in events if event[0] in _DDL}
    if ddl:
        # Next to DDL, writes to SQLite's bookkeeping follow from it; CREATE TABLE AS and DROP TABLE touch rows as well.
        dml = {target for target in dml if not target[1].startswith("sqlite_")}
    targets = dml | ddl
    if any(event[0] == _CREATE_TEMP_TRIGGER for event in events):
        return _refused("a temporary trigger changes what later writes do, and does not exist in the database")
    if not any(database == "main" for database, _ in targets):
        return Plan(Kind.SCOPE if ddl else Kind.PASS)
    if own := next((table for _, table in targets if rules.is_own(table)), None):
        return _refused(f"{own} belongs to tenant-init, not to the app")
    local = {target for target in targets if rules.is_local(target[1])}
    if local == targets:
        return Plan(Kind.SCOPE if ddl else Kind.PASS)

    reason = (
        _mixes_databases(connection, events, targets)
        or (f"it writes {min(local)[1]}, which is not in the database, together with other tables" if local else None)
        or _reads_elsewhere(events, bool(ddl))
        or _unknown_module(events)
        or (_CONFLICT_FAILS if _on_conflict(program, _ON_CONFLICT_FAIL) else None)
        or _foreign_collation(context, program, sql if ddl else "")
    )
    functions, dates = _functions(context, events, program, bool(ddl))
    reason = reason or functions
    if reason:
        return _refused(reason)
    returns = any(row[1] == "ResultRow" for row in program)
    return Plan(
        Kind.RECORD,
        changes_schema=bool(ddl),
        begins_implicitly=sqltext.begins_implicitly(sql),
        returns_rows=returns,
        only_touches=not ddl and not returns and all(event[0] != sqlite3.SQLITE_INSERT or event[4] for event in events),
        fails_with_others=_on_conflict(program, _ON_CONFLICT_ROLLBACK) or _defers(program),
        asks_dates=dates,
        names=sqltext.parameter_names(sql),
    )


def _ddl_target(event: Event) -> tuple[str, str]:
    if event[0] == sqlite3.SQLITE_ALTER_TABLE:  # the one with the database first
        return event[1] or "", (event[2] or "").lower()
    table = event[1] if _DDL[event[0]] == 1 else event[2]
    return event[3] or "", (table or "").lower()


def _mixes_databases(
    connection: sqlite3.Connection, events: list[Event], targets: set[tuple[str, str]]
) -> str | None:
    other = next((database for database, _ in targets if database != "main"), None)
    # ALTER TABLE also looks through the schema of temporary tables.
    read = (e[3] for e in events if e[0] == sqlite3.SQLITE_READ and (e[1] or "").lower() not in rules.SCHEMA_TABLES)
    other = other or next((database for database in read if database not in (None, "main")), None)
    if other is not None:
        return f"it also uses the database {other!r}, which exists only on this connection"
    temporary = {
        str(name).lower()
        for (name,) in _plain_rows(connection, "SELECT name FROM sqlite_temp_master")
        if not rules.is_own(str(name).lower())
    }
    used = {name.lower() for event in events for name in (event[1], event[4]) if name}
    if temporary & used:
        return f"it uses {min(temporary & used)!r}, which is temporary and exists only on this connection"
    return None


def _plain_rows(connection: sqlite3.Connection, sql: str) -> list[tuple[Any, ...]]:
    text_factory = connection.text_factory
    connection.text_factory = str
    try:
        return sqlite3.Cursor(connection).execute(sql).fetchall()
    finally:
        connection.text_factory = text_factory


def _reads_elsewhere(events: list[Event], ddl: bool) -> str | None:
    for action, table, _, _, _ in events:
        if action != sqlite3.SQLITE_READ or table is None:
            continue
        name = table.lower()
        if rules.differs_elsewhere(name) and not (ddl and name.startswith("sqlite_")):
            return f"it reads {table}, which is not the same in the database"
    return None


def _unknown_module(events: list[Event]) -> str | None:
    for action, table, module, _, _ in events:
        if action == sqlite3.SQLITE_CREATE_VTABLE and (module or "").lower() not in rules.REPLAYABLE_MODULES:
            return f"the virtual table {table} needs the module {module}, which the database does not have"
    return None


def _on_conflict(program: list[tuple[Any, ...]], action: int) -> bool:
    return any(
        (opcode in ("Halt", "HaltIfNull") and p1 and p2 == action) or (opcode == "VUpdate" and p5 == action)
        for _, opcode, p1, p2, _, _, p5, _ in program
    )


def _defers(program: list[tuple[Any, ...]]) -> bool:
    """Whether a foreign key is looked at only when the transaction ends."""
    return any(row[1] == "FkCounter" and row[2] for row in program)


def _foreign_collation(context: Context, program: list[tuple[Any, ...]], ddl: str) -> str | None:
    if not context.collations:
        return None
    names = frozenset(context.collations)
    used = sqltext.mentions(ddl, names)
    for row in program:
        used = used or next((n for n in re.split(r"[(),\-]", str(row[5]).lower()) if n in names), None)
    return f"it needs the collation {used}, which only this program has" if used else None


def _functions(
    context: Context, events: list[Event], program: list[tuple[Any, ...]], ddl: bool
) -> tuple[str | None, bool]:
    """Why a function forbids recording; and whether date functions are used."""
    altering = any(event[0] == sqlite3.SQLITE_ALTER_TABLE for event in events)
    dates = False
    for _, opcode, _, p2, _, p4, _, _ in program:
        if opcode not in _FUNCTION_OPCODES or not p4:
            continue
        name = str(p4).split("(")[0].lower()
        if name in context.functions:
            return _only_here(name), False
        if name in rules.DATE_FUNCTIONS:
            if opcode == "PureFunc":  # SQLite itself refuses 'now' there
                continue
            dates = True
            if p2 == 0 or any(row[1] == "String8" and is_clock_word(str(row[5])) for row in program):
                return f"the function {name}() asks the clock or the time zone of this machine", False
        elif name not in rules.DETERMINISTIC and not (altering and rules.ALTER_FUNCTIONS.match(name)):
            return f"the function {name}() need not give the same result in the database", False
    if ddl:  # the app's functions in a CHECK or an index are only named, not called
        for event in events:
            name = (event[2] or "").lower()
            if event[0] == sqlite3.SQLITE_FUNCTION and name in context.functions:
                return _only_here(name), False
    return None, dates


def _only_here(name: str) -> str:
    return f"the function {name}() exists only in this program"


def is_clock_word(text: str) -> bool:
    return text.strip().lower() in rules.CLOCK_WORDS
