"""Replaces `sqlite3.connect`: a recording connection for the tenant's index, the stock one for every other database.

The index is a file named `memory.db` that has the table `_tenant_init_outbox`; tenant-init makes both before the app
starts. Everything but this module is imported only then: every interpreter of the image loads it.
"""

import os
import sqlite3
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .connection import RecordingConnection

FILE_NAME = "memory.db"
_READ_ONLY = frozenset({"mode=ro", "mode=memory", "immutable=1", "vfs=memdb"})
# Positions in sqlite3.connect(database, timeout, detect_types, isolation_level, check_same_thread, factory, cached_statements, uri)
_FACTORY, _URI = 5, 7

stock_connect = sqlite3.connect


def connect(*arguments: Any, **named: Any) -> Any:
    """`sqlite3.connect`, recording where the database is the tenant's index."""
    database = arguments[0] if arguments else named.get("database")
    uri = arguments[_URI] if len(arguments) > _URI else named.get("uri", False)
    if not is_index(database, bool(uri)):
        return stock_connect(*arguments, **named)
    from .connection import RecordingConnection, combined_factory

    given = arguments[_FACTORY] if len(arguments) > _FACTORY else named.get("factory", sqlite3.Connection)
    factory = combined_factory(given, sqlite3.Connection, RecordingConnection)
    if len(arguments) > _FACTORY:
        changed = (*arguments[:_FACTORY], factory, *arguments[_FACTORY + 1 :])
        connection = stock_connect(*changed, **named)
    else:
        connection = stock_connect(*arguments, **{**named, "factory": factory})
    if _has_outbox(connection):
        return connection
    connection.close()
    return stock_connect(*arguments, **named)


def _has_outbox(connection: "RecordingConnection") -> bool:
    outbox = connection._tenant_outbox
    try:
        found = outbox.exists(connection)
    except sqlite3.OperationalError:
        # Locked, or not readable: whether to record is not known, and guessing "no" could lose writes.
        connection.close()
        raise
    except sqlite3.DatabaseError:
        return False  # not a database; sqlite3 says so at the first statement
    if found:
        outbox.prepare(connection)
    if getattr(connection, "autocommit", None) is False:
        sqlite3.Connection.commit(connection)  # the app's first transaction must not begin with our look at the schema
    return found


def is_index(database: Any, uri: bool) -> bool:
    """Whether it names an existing file `memory.db` that is opened for writing."""
    try:
        path = os.fsdecode(database)
    except TypeError:
        return False  # sqlite3 has the better message
    if uri and path.startswith("file:"):
        path, _, query = path.partition("#")[0].partition("?")
        if not _READ_ONLY.isdisjoint(query.split("&")):
            return False
        path = _unquoted(path.removeprefix("file:"))
    return os.path.basename(path) == FILE_NAME and os.path.exists(path)


def _unquoted(path: str) -> str:
    from urllib.parse import unquote

    if path.startswith("//"):
        path = "/" + path[2:].partition("/")[2]
    return unquote(path)


def install() -> None:
    """Everyone who looks `connect` up when calling it gets ours: aiosqlite, SQLAlchemy, the app."""
    import _sqlite3

    for module in (sqlite3, sqlite3.dbapi2, _sqlite3):
        setattr(module, "connect", connect)
