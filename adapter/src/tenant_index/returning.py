"""Rows of a RETURNING statement whose transaction has ended already.

Outside a transaction a statement and its record need one of their own, and that cannot end while rows are still to be
fetched. So they are fetched first and handed out from memory. Cursors that do this change their class until the next
statement: overriding the fetch methods of every cursor would make each row of each SELECT slower.
"""

import functools
import sqlite3
from collections import deque
from typing import Any, Self


class _Rows(sqlite3.Cursor):
    _tenant_rows: deque[Any]

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        if not self._tenant_rows:
            raise StopIteration
        return self._tenant_rows.popleft()

    def fetchone(self) -> Any:
        return next(self, None)

    def fetchmany(self, size: int | None = None) -> list[Any]:
        wanted = self.arraysize if size is None else size
        return [self._tenant_rows.popleft() for _ in range(min(wanted, len(self._tenant_rows)))]

    def fetchall(self) -> list[Any]:
        return self.fetchmany(len(self._tenant_rows))

    def execute(self, *arguments: Any) -> Self:
        return self._tenant_plain().execute(*arguments)

    def executemany(self, *arguments: Any) -> Self:
        return self._tenant_plain().executemany(*arguments)

    def executescript(self, *arguments: Any) -> Self:
        return self._tenant_plain().executescript(*arguments)

    def close(self) -> None:
        self._tenant_plain().close()

    def _tenant_plain(self) -> Self:
        self._tenant_rows.clear()
        self.__class__ = type(self).__mro__[2]
        return self


@functools.cache
def _serving(cursor_class: type[sqlite3.Cursor]) -> type[sqlite3.Cursor]:
    return type(cursor_class.__name__, (_Rows, cursor_class), {"__module__": cursor_class.__module__})


def serve(cursor: sqlite3.Cursor, rows: list[Any]) -> None:
    cursor.__class__ = _serving(type(cursor))
    cursor._tenant_rows = deque(rows)  # type: ignore[attr-defined]
