"""The connection: hands out recording cursors, remembers what SQLite cannot be asked for, refuses what bypasses them."""

import sqlite3
from collections.abc import Callable
from typing import Any, NoReturn

from .cursor import RecordingCursor
from .outbox import Outbox


_combinations: dict[tuple[type[object], type[object]], type[Any]] = {}


def _combined(own: type[object], recording: type[object]) -> type[Any]:
    """The app's own class in front, so that its methods end up in ours."""
    if issubclass(own, recording):
        return own
    if issubclass(recording, own):
        return recording
    if (own, recording) not in _combinations:
        _combinations[own, recording] = type(own.__name__, (own, recording), {"__module__": own.__module__})
    return _combinations[own, recording]


def combined_factory(own: Any, stock: type[object], recording: type[object]) -> type[Any]:
    if isinstance(own, type) and issubclass(own, stock):
        return _combined(own, recording)
    raise sqlite3.NotSupportedError(
        f"tenant-index: the factory {own!r} is not a subclass of sqlite3.{stock.__name__}, so what it makes could write to "
        "the index without being recorded; pass a subclass"
    )


class RecordingConnection(sqlite3.Connection):
    def __init__(self, *arguments: Any, **named: Any) -> None:
        self._tenant_outbox = Outbox()
        super().__init__(*arguments, **named)

    def cursor(self, factory: Any = RecordingCursor) -> Any:
        if factory is not RecordingCursor:
            factory = combined_factory(factory, sqlite3.Cursor, RecordingCursor)
        return super().cursor(factory)

    # sqlite3's own shortcuts make a stock cursor.

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        return super().cursor(RecordingCursor).execute(sql, parameters)

    def executemany(self, sql: str, parameters: Any, /) -> sqlite3.Cursor:
        return super().cursor(RecordingCursor).executemany(sql, parameters)

    def executescript(self, sql_script: str, /) -> sqlite3.Cursor:
        return super().cursor(RecordingCursor).executescript(sql_script)

    @property
    def total_changes(self) -> int:
        return super().total_changes - self._tenant_outbox.recorded

    # ---- ends of a transaction: only an executemany in progress has to hear of them ----

    def commit(self) -> None:
        self._tenant_record_batch()
        super().commit()
        self._tenant_transaction_ended()

    def rollback(self) -> None:
        self._tenant_record_batch()
        super().rollback()
        self._tenant_transaction_ended()

    def __exit__(self, *error: Any) -> Any:
        self._tenant_record_batch()
        result = super().__exit__(*error)
        self._tenant_transaction_ended()
        return result

    def _tenant_record_batch(self) -> None:
        if self._tenant_outbox.batch is not None:
            self._tenant_outbox.batch.record()

    def _tenant_transaction_ended(self) -> None:
        # There, the next transaction begins as soon as one has ended.
        if getattr(self, "autocommit", None) is False:
            self._tenant_outbox.fresh = True

    # ---- remembered ----

    def create_function(self, *arguments: Any, **named: Any) -> None:
        super().create_function(*arguments, **named)
        self._tenant_remember(self._tenant_outbox.context.functions, "name", arguments, named)

    def create_aggregate(self, *arguments: Any, **named: Any) -> None:
        super().create_aggregate(*arguments, **named)
        self._tenant_remember(self._tenant_outbox.context.functions, "name", arguments, named)

    def create_window_function(self, *arguments: Any, **named: Any) -> None:
        super().create_window_function(*arguments, **named)
        self._tenant_remember(self._tenant_outbox.context.functions, "name", arguments, named)

    def create_collation(self, *arguments: Any, **named: Any) -> None:
        super().create_collation(*arguments, **named)
        self._tenant_remember(self._tenant_outbox.context.collations, "name", arguments, named)

    def _tenant_remember(self, names: set[str], key: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        names.add(str(arguments[0] if arguments else named[key]).lower())
        self._tenant_outbox.forget_plans()

    def set_authorizer(self, authorizer_callback: Callable[..., int] | None) -> None:
        super().set_authorizer(authorizer_callback)
        self._tenant_outbox.context.authorizer = authorizer_callback

    # ---- refused ----

    def blobopen(self, table: str, column: str, row: int, /, *, readonly: bool = False, name: str = "main") -> Any:
        if not readonly:
            _bypasses("blobopen() for writing; use readonly=True, or UPDATE")
        return super().blobopen(table, column, row, readonly=readonly, name=name)

    def deserialize(self, *arguments: Any, **named: Any) -> NoReturn:
        _bypasses("deserialize()")

    def setconfig(self, op: int, enable: bool = True, /) -> Any:
        if op != getattr(sqlite3, "SQLITE_DBCONFIG_ENABLE_FKEY", None):
            _bypasses("setconfig() for anything but SQLITE_DBCONFIG_ENABLE_FKEY, which changes what statements do")
        super().setconfig(op, enable)  # type: ignore[misc, unused-ignore]
        self._tenant_outbox.read_foreign_keys(self)

    def backup(self, target: sqlite3.Connection, **named: Any) -> None:
        if isinstance(target, RecordingConnection):
            _bypasses("backup() into the index")
        super().backup(target, **named)


def _bypasses(what: str) -> NoReturn:
    raise sqlite3.NotSupportedError(f"tenant-index: refused, because it would write to the index unrecorded: {what}")
