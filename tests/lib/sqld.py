"""A libSQL server: `sqld`, what Turso runs."""

import base64
import json
import os
import shutil
import time
import urllib.error
import urllib.request
from pathlib import Path

from .proc import Process
from .server import Server
from .tls import openssl
from .wait import free_port


LEEWAY = 60  # seconds that sqld takes a token for after its end


class SqldError(ValueError):
    """The server refused a request (`status`) or a statement (`status` is 200)."""

    def __init__(self, status, message):
        super().__init__(message if status == 200 else f"HTTP {status}: {message}")
        self.status = status


class Sqld(Server):
    """An empty database at `url`; kept in `folder` when stopped and started again.

    With `auth` it wants tokens, as Turso does: signed with a key that is made for it and can be changed (`revoke`).
    """

    def __init__(self, folder, port=None, binary=None, auth=False):
        self.folder = Path(folder)
        self.data = self.folder / "sqld"
        self.port = port or free_port()
        self.binary = binary or os.environ.get("SQLD") or shutil.which("sqld") or "sqld"
        self.process = Process("sqld", self.folder)
        self.key = self.folder / "sqld.key" if auth else None
        if auth:
            self._make_key()
            self.tenants_token = self.token()

    # -- life --

    @property
    def url(self):
        """For `DATABASE_URL`, token included."""
        return self.url_at(self.port)

    def url_at(self, port, tls=False, token=None):
        """The same database through something that listens on another port."""
        token = token or (self.tenants_token if self.key else None)
        return f"libsql://127.0.0.1:{port}?tls={int(tls)}" + (f"&authToken={token}" if token else "")

    def start(self):
        auth = ["--auth-jwt-key-file", self.key.with_suffix(".pub")] if self.key else []
        self.process.spawn([self.binary, "--db-path", self.data, "--http-listen-addr", f"127.0.0.1:{self.port}", *auth])
        self.await_listening()
        return self

    # -- tokens --

    def token(self, lifetime=3600, access="rw"):
        """A token for `lifetime` seconds (negative: expired already); `access` is `rw` or `ro`.

        The server takes one for `LEEWAY` more seconds.
        """
        claims = {"a": access, "exp": int(time.time() + lifetime)}
        signed = _token_part(b'{"alg":"EdDSA","typ":"JWT"}') + b"." + _token_part(json.dumps(claims).encode())
        message = self.key.with_suffix(".message")
        message.write_bytes(signed)  # openssl signs with Ed25519 only what it can measure first: a file
        signature = openssl("pkeyutl", "-sign", "-rawin", "-inkey", self.key, "-in", message)
        return (signed + b"." + _token_part(signature)).decode()

    def revoke(self):
        """No token given out so far is valid any more. The server reads its key at start, so it is started again."""
        self.stop()
        self._make_key()
        self.start()

    def restore_keys(self):
        """Takes the last `revoke` back."""
        self.stop()
        for name in (self.key, self.key.with_suffix(".pub")):
            name.with_name(name.name + ".before").replace(name)
        self.start()

    def _make_key(self):
        public = self.key.with_suffix(".pub")
        for name in (self.key, public):
            if name.exists():
                name.replace(name.with_name(name.name + ".before"))
        openssl("genpkey", "-algorithm", "ed25519", "-out", self.key)
        openssl("pkey", "-in", self.key, "-pubout", "-out", public)

    # -- asking it --

    def query(self, sql, *args):
        """Rows of one statement: tuples of int, float, str, bytes, None."""
        return self.execute((sql, *args))[0]

    def execute(self, *statements):
        """Rows of each of several statements (`sql` or `(sql, arg, …)`), on one stream, so that a transaction may span them."""
        requests = []
        for statement in statements:
            sql, *args = (statement,) if isinstance(statement, str) else statement
            requests.append({"type": "execute", "stmt": {"sql": sql, "args": [_encode(a) for a in args]}})
        results = self._pipeline(requests + [{"type": "close"}])
        for result in results:
            if result["type"] != "ok":
                raise SqldError(200, result["error"]["message"])
        return [[tuple(map(_decode, row)) for row in result["response"]["result"]["rows"]] for result in results[:-1]]

    def _pipeline(self, requests):
        headers = {"Content-Type": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.token()}"
        body = json.dumps({"requests": requests}).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/v2/pipeline", body, headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.load(answer)["results"]
        except urllib.error.HTTPError as error:
            raise SqldError(error.code, error.read().decode(errors="replace")) from None

    def tables(self):
        """Names of all tables, views not included; shadow tables of full-text indexes are tables too."""
        return [name for name, in self.query("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")]


def _token_part(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _encode(value):
    match value:
        case None:
            return {"type": "null"}
        case int():
            return {"type": "integer", "value": str(int(value))}
        case float():
            return {"type": "float", "value": value}
        case bytes():
            return {"type": "blob", "base64": base64.b64encode(value).decode()}
        case _:
            return {"type": "text", "value": str(value)}


def _decode(value):
    match value["type"]:
        case "null":
            return None
        case "integer":
            return int(value["value"])  # text, because JSON's numbers end at 2^53
        case "float":
            return float(value["value"])
        case "blob":
            data = value["base64"]
            return base64.b64decode(data + "=" * (-len(data) % 4))  # sqld leaves the padding out
        case _:
            return value["value"]
