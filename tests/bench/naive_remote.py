"""What the benchmark compares with: basic-memory's index on a remote database in the obvious way, every statement a request.

Mounted into the image as `sitecustomize.py`; swaps `sqlite3.connect` for the index file when NAIVE_REMOTE_URL is set. Only for
measuring: it gives up nothing of the semantics that basic-memory needs, and has no answer to a network that fails. It is kind to
the idea it stands for: PRAGMAs that tune a local file cost no round trip, and connections are kept open.
"""

import base64
import datetime
import http.client
import json
import os
import re
import socket
import sqlite3
import threading
from urllib.parse import urlsplit

_CHANGES = ("INSERT", "UPDATE", "DELETE", "REPLACE")
_LEAD = re.compile(r"(?:\s+|--[^\n]*(?:\n|$)|/\*.*?\*/)*([A-Za-z]+)", re.S)
_PRAGMA = re.compile(r"\s*PRAGMA\s+(\w+)\s*(?:=\s*([\w-]+))?\s*;?\s*$", re.I)
# PRAGMAs about a local file, and what is answered for it.
_LOCAL = {"journal_mode": "wal", "busy_timeout": 10000, "synchronous": 1, "cache_size": -64000, "temp_store": 2,
          "mmap_size": 0, "wal_autocheckpoint": 1000, "page_size": 4096, "locking_mode": "normal"}
_BEGINS = re.compile(r"\s*(BEGIN|SAVEPOINT)\b", re.I)
_ENDS = re.compile(r"\s*(COMMIT|END|ROLLBACK)\b(?!.*\bTO\b)", re.I)


def _encode(value):
    if isinstance(value, (datetime.datetime, datetime.date)):
        value = value.isoformat(" ") if isinstance(value, datetime.datetime) else value.isoformat()
    if value is None:
        return {"type": "null"}
    if isinstance(value, int):
        return {"type": "integer", "value": str(int(value))}
    if isinstance(value, float):
        return {"type": "float", "value": value}
    if isinstance(value, str):
        return {"type": "text", "value": str.__str__(value)}
    return {"type": "blob", "base64": base64.b64encode(bytes(value)).decode()}


def _decode(value):
    kind = value["type"]
    if kind == "integer":
        return int(value["value"])
    if kind == "blob":
        return base64.b64decode(value["base64"] + "=" * (-len(value["base64"]) % 4))
    return None if kind == "null" else float(value["value"]) if kind == "float" else value["value"]


def _error(error):
    message = error["message"].split("error: ", 1)[-1].strip("`")
    if "CONSTRAINT" in (error.get("code") or "") or "constraint failed" in message:
        return sqlite3.IntegrityError(message)
    return sqlite3.OperationalError(message)


class Cursor:
    def __init__(self, connection):
        self.connection, self.arraysize, self.row_factory = connection, 1, None
        self.description, self.rowcount, self.lastrowid, self.rows = None, -1, None, iter(())

    def execute(self, sql, parameters=()):
        self.connection.run(self, sql, parameters)
        return self

    def executemany(self, sql, many):
        count = 0
        for parameters in many:
            self.execute(sql, parameters)
            count += max(self.rowcount, 0)
        self.rowcount = count
        return self

    def executescript(self, script):
        self.connection.commit()
        statement = ""
        for part in script.split(";"):
            statement += part + ";"
            if sqlite3.complete_statement(statement):
                if _LEAD.match(statement):
                    self.execute(statement)
                statement = ""
        return self

    def fetchone(self):
        return next(self.rows, None)

    def fetchmany(self, size=None):
        return [row for _, row in zip(range(size or self.arraysize), self.rows)]

    def fetchall(self):
        return list(self.rows)

    def __iter__(self):
        return self.rows

    def close(self):
        self.rows = iter(())


class Connection:
    """What aiosqlite and SQLAlchemy use of sqlite3.Connection, in its default transaction mode."""

    isolation_level, row_factory, text_factory = "", None, str

    def __init__(self, url):
        self.url, self.http, self.baton = urlsplit(url), None, None
        self.in_transaction, self.total_changes, self.foreign_keys = False, 0, None
        self.lock = threading.RLock()

    def cursor(self, *_):
        return Cursor(self)

    def execute(self, sql, parameters=()):
        return self.cursor().execute(sql, parameters)

    def executemany(self, sql, many):
        return self.cursor().executemany(sql, many)

    def executescript(self, script):
        return self.cursor().executescript(script)

    def commit(self):
        if self.in_transaction:
            self.execute("COMMIT")

    def rollback(self):
        if self.in_transaction:
            self.execute("ROLLBACK")

    def close(self):
        self.rollback()
        if self.http:
            self.http.close()

    def create_function(self, *_, **__):
        pass  # SQLAlchemy's regexp, which basic-memory does not use

    create_collation = set_trace_callback = set_progress_handler = create_function

    def run(self, cursor, sql, parameters):
        with self.lock:
            word = match.group(1).upper() if (match := _LEAD.match(sql)) else ""
            if word == "PRAGMA" and self._answered_here(cursor, sql):
                return
            if word in _CHANGES and not self.in_transaction and self.isolation_level is not None:
                self._request("BEGIN IMMEDIATE", ())
            result = self._request(sql, parameters)
            changed = word in _CHANGES
            cursor.description = [(column["name"], *[None] * 6) for column in result["cols"]] or None
            cursor.rows = iter([tuple(map(_decode, row)) for row in result["rows"]])
            cursor.rowcount = result["affected_row_count"] if changed else -1
            if changed:
                self.total_changes += cursor.rowcount
                if word in ("INSERT", "REPLACE") and result.get("last_insert_rowid"):
                    cursor.lastrowid = int(result["last_insert_rowid"])

    def _answered_here(self, cursor, sql):
        name, value = (match.groups() if (match := _PRAGMA.match(sql)) else ("", None))
        name = name.lower()
        if name == "foreign_keys" and value:
            self.foreign_keys = value  # goes with the next request, without a round trip of its own
        elif name not in _LOCAL:
            return False
        answer = name in _LOCAL and (value is None or name == "journal_mode")
        cursor.description = [(name, *[None] * 6)] if answer else None
        cursor.rows, cursor.rowcount = iter([(_LOCAL[name],)] if answer else []), -1
        return True

    def _request(self, sql, parameters):
        """One statement, one round trip."""
        statement = {"sql": sql, "want_rows": True}
        if isinstance(parameters, dict):
            statement["named_args"] = [{"name": name, "value": _encode(value)} for name, value in parameters.items()]
        else:
            statement["args"] = [_encode(value) for value in parameters]
        requests = [{"type": "execute", "stmt": statement}, {"type": "get_autocommit"}]
        before = []
        if not self.in_transaction and self.foreign_keys:
            before = [{"type": "execute", "stmt": {"sql": f"PRAGMA foreign_keys = {self.foreign_keys}"}}]
        # A stream is kept for a transaction only: the server has few, and forgets one that is silent for 10 s.
        stays = self.in_transaction and not _ENDS.match(sql) or _BEGINS.match(sql)
        answer = self._post({"baton": self.baton, "requests": before + requests + ([] if stays else [{"type": "close"}])})
        self.baton = answer.get("baton")
        done, state = answer["results"][len(before):len(before) + 2]
        self.in_transaction = state["type"] == "ok" and not state["response"]["is_autocommit"]
        if done["type"] != "ok":
            raise _error(done["error"])
        return done["response"]["result"]

    def _post(self, body):
        data = json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        if token := os.environ.get("NAIVE_REMOTE_TOKEN"):
            headers["Authorization"] = f"Bearer {token}"
        if self.http is None:
            self.http = http.client.HTTPConnection(self.url.hostname, self.url.port, timeout=30)
            self.http.connect()
            self.http.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self.http.request("POST", "/v3/pipeline", data, headers)
            answer = self.http.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException) as error:
            self.http.close()
            self.http = self.baton = None
            self.in_transaction = False
            raise sqlite3.OperationalError(f"the database does not answer: {error!r}") from error
        if answer.status != 200:
            self.baton, self.in_transaction = None, False
            raise sqlite3.OperationalError(f"HTTP {answer.status}: {text[:300]!r}")
        return json.loads(text)


def install(url):
    stock = sqlite3.connect

    def connect(database, *arguments, **options):
        if os.path.basename(str(database)) != "memory.db":
            return stock(database, *arguments, **options)
        return Connection(url)

    sqlite3.connect = sqlite3.dbapi2.connect = connect


if os.environ.get("NAIVE_REMOTE_URL"):
    install(os.environ["NAIVE_REMOTE_URL"])
