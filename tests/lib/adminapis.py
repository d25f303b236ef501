"""Fakes of the two administration APIs that `tenant-provision` speaks, written from their public documentation.

`Iam` is Tigris's IAM API: the query protocol of AWS IAM (version 2010-05-08; request and answer forms of AWS's API
reference), limited to the operations that Tigris lists, with its difference that policies are attached to keys
(`UserName` is the key's id there). Signatures are checked. `Turso` is the Turso Platform API (its OpenAPI description).
Nothing here was compared with the real services.
"""

import datetime
import hashlib
import hmac
import http.server
import json
import re
import threading
import urllib.parse
from xml.sax.saxutils import escape

READS = ("List", "Get", "GET")


class _Api:
    """An HTTP service. `before` and `after` are called with the name of each request that changes something; when `before`
    gives something, the request is lost."""

    def __init__(self):
        self.calls = []
        self.before = self.after = lambda name: None
        self.answers = []  # (status, headers) to be given instead of serving, one for each request
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self._server.server_port}"

    def stop(self):
        self._server.shutdown()
        self._server.server_close()

    def changes(self):
        """Names of the requests that changed something."""
        return [name for name in self.calls if not name.startswith(READS)]

    def _handler(self):
        api = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def serve(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if api.answers:
                    status, headers = api.answers.pop(0)
                    return self.reply(status, b"", headers)
                name, do = api.request(self.command, self.path, self.headers, body)
                api.calls.append(name)
                changes = not name.startswith(READS)
                try:
                    if changes and api.before(name):
                        self.close_connection = True
                        return None
                    status, text = do()
                    if changes and status == 200:
                        api.after(name)
                    self.reply(status, text.encode(), {})
                except OSError:
                    pass  # who asked is gone
                return None

            def reply(self, status, body, headers):
                self.send_response(status)
                for header, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(header, value)
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_DELETE = serve

            def log_message(self, *_):
                pass

        return Handler


class Iam(_Api):
    def __init__(self, key_id, secret, pool):
        self.key_id, self.secret = key_id, secret
        self.pool = list(pool)  # (id, secret) of the keys that will be made
        self.keys = {}  # id → name
        self.policies = {}  # arn → {"name", "document", "keys"}
        self.page = 2  # entries of one page, so that lists have several
        self.miscounted = 0  # too many in each AttachmentCount
        self.cut = None  # the action whose lists are cut off, without a place to go on
        super().__init__()

    def policy(self, name):
        [found] = [policy for policy in self.policies.values() if policy["name"] == name]
        return found

    def keys_of(self, name):
        """Ids of the keys that have the policy `name`."""
        return list(self.policy(name)["keys"])

    def request(self, method, path, headers, body):
        asked = dict(urllib.parse.parse_qsl(body.decode()))
        action = asked.get("Action", "none")
        if method != "POST" or path != "/" or asked.get("Version") != "2010-05-08":
            return "GET", lambda: _error(400, "InvalidAction", "this is no request of the query protocol")
        refused = self._check(headers, body)
        if refused:
            return "GET", lambda: refused
        return action, lambda: self._do(action, asked)

    def _check(self, headers, body):
        """AWS Signature Version 4, as its documentation has it."""
        found = re.fullmatch(r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d+)/([^/]+)/iam/aws4_request, ?"
                             r"SignedHeaders=([^,]+), ?Signature=([0-9a-f]+)", headers.get("Authorization", ""))
        if not found:
            return _error(403, "IncompleteSignature", "no signature")
        key_id, day, region, signed, signature = found.groups()
        if key_id != self.key_id:
            return _error(403, "InvalidClientTokenId", f"the key {key_id} is not known")
        names = signed.split(";")
        canonical = "".join(f"{name}:{headers[name].strip()}\n" for name in names)
        request = "\n".join(["POST", "/", "", canonical, signed, hashlib.sha256(body).hexdigest()])
        scope = f"{day}/{region}/iam/aws4_request"
        text = "\n".join(["AWS4-HMAC-SHA256", headers["x-amz-date"], scope, hashlib.sha256(request.encode()).hexdigest()])
        key = ("AWS4" + self.secret).encode()
        for part in (day, region, "iam", "aws4_request", text):
            key = hmac.new(key, part.encode(), hashlib.sha256).digest()
        if key.hex() != signature or "host" not in names:
            return _error(403, "SignatureDoesNotMatch", "the signature is wrong")
        return None

    def _do(self, action, asked):
        arn = asked.get("PolicyArn")
        if arn and arn not in self.policies:
            return _error(404, "NoSuchEntity", f"there is no policy {arn}")
        match action:
            case "ListAccessKeys":
                keys = [f"<UserName>{name}</UserName><AccessKeyId>{key}</AccessKeyId><Status>Active</Status>"
                        "<CreateDate>2026-01-02T03:04:05Z</CreateDate>" for key, name in self.keys.items()]
                return self._list(action, "AccessKeyMetadata", keys, asked)
            case "ListPolicies":
                policies = [f"<PolicyName>{policy['name']}</PolicyName><Arn>{arn}</Arn><DefaultVersionId>v1</DefaultVersionId>"
                            f"<AttachmentCount>{len(policy['keys']) + self.miscounted}</AttachmentCount>" for arn, policy in self.policies.items()]
                return self._list(action, "Policies", policies, asked)
            case "ListEntitiesForPolicy":
                users = [f"<UserName>{self.keys.get(key, 'hidden')}</UserName><UserId>{key}</UserId>" for key in self.policies[arn]["keys"]]
                return self._list(action, "PolicyUsers", users, asked)
            case "GetPolicyVersion":
                document = urllib.parse.quote(self.policies[arn]["document"])
                return _result(action, f"<PolicyVersion><Document>{document}</Document><VersionId>v1</VersionId></PolicyVersion>")
            case "CreateAccessKey":
                key, secret = self.pool.pop(0)
                self.keys[key] = asked["UserName"]
                return _result(action, f"<AccessKey><UserName>{asked['UserName']}</UserName><AccessKeyId>{key}</AccessKeyId>"
                                       f"<Status>Active</Status><SecretAccessKey>{secret}</SecretAccessKey></AccessKey>")
            case "CreatePolicy":
                name = asked["PolicyName"]
                if any(policy["name"] == name for policy in self.policies.values()):
                    return _error(409, "EntityAlreadyExists", f"there is a policy {name}")
                json.loads(asked["PolicyDocument"])
                arn = f"arn:aws:iam::flyio_org:policy/{name}"
                self.policies[arn] = {"name": name, "document": asked["PolicyDocument"], "keys": []}
                return _result(action, f"<Policy><PolicyName>{name}</PolicyName><Arn>{arn}</Arn>"
                                       "<DefaultVersionId>v1</DefaultVersionId></Policy>")
            case "AttachUserPolicy" | "DetachUserPolicy":
                keys, key = self.policies[arn]["keys"], asked["UserName"]
                if key not in (keys if action == "DetachUserPolicy" else self.keys):
                    return _error(404, "NoSuchEntity", f"there is no key {key} there")
                if action == "DetachUserPolicy":
                    keys.remove(key)
                elif key not in keys:
                    keys.append(key)
                return _result(action, "")
            case "DeleteAccessKey":
                if asked["AccessKeyId"] not in self.keys:
                    return _error(404, "NoSuchEntity", "there is no such key")
                del self.keys[asked["AccessKeyId"]]
                return _result(action, "")
            case "DeletePolicy":
                if self.policies[arn]["keys"]:
                    return _error(409, "DeleteConflict", "the policy is attached")
                del self.policies[arn]
                return _result(action, "")
        return _error(400, "InvalidAction", f"{action} is not supported")

    def _list(self, action, name, entries, asked):
        start = int(asked.get("Marker", 0))
        end = start + min(self.page, int(asked.get("MaxItems", 100)))
        if action == self.cut:
            return _result(action, f"<{name}></{name}><IsTruncated>true</IsTruncated>")
        more = end < len(entries)
        members = "".join(f"<member>{entry}</member>" for entry in entries[start:end])
        marker = f"<Marker>{end}</Marker>" if more else ""
        return _result(action, f"<{name}>{members}</{name}><IsTruncated>{str(more).lower()}</IsTruncated>{marker}")


def _result(action, body):
    return 200, (f'<{action}Response xmlns="https://iam.amazonaws.com/doc/2010-05-08/"><{action}Result>{body}</{action}Result>'
                 f"<ResponseMetadata><RequestId>{datetime.datetime.now():%s}</RequestId></ResponseMetadata></{action}Response>")


def _error(status, code, message):
    return status, (f'<ErrorResponse xmlns="https://iam.amazonaws.com/doc/2010-05-08/"><Error><Type>Sender</Type>'
                    f"<Code>{code}</Code><Message>{escape(message)}</Message></Error></ErrorResponse>")


class Turso(_Api):
    """One sqld stands for all databases. It has `auth`, so its tokens are real."""

    def __init__(self, token, organization, sqld):
        self.token, self.organization, self.sqld = token, organization, sqld
        self.databases = []
        self.minted = []
        super().__init__()

    def request(self, method, path, headers, body):
        parsed = urllib.parse.urlsplit(path)
        base = f"/v1/organizations/{self.organization}/databases"
        if headers.get("Authorization") != f"Bearer {self.token}":
            return "GET", lambda: (401, json.dumps({"error": "invalid token"}))
        if not parsed.path.startswith(base):
            return "GET", lambda: (404, json.dumps({"error": "organization not found"}))
        name, _, rest = parsed.path[len(base):].lstrip("/").partition("/")
        query = dict(urllib.parse.parse_qsl(parsed.query))
        label = {"": method + " database", "auth/tokens": "mint", "auth/rotate": "rotate"}.get(rest, rest)
        return label, lambda: self._do(method, name, rest, query, json.loads(body or b"{}"))

    def _describe(self, name):
        return {"Name": name, "DbId": "0eb771dd-6906-11ee-8553-eaa7715aeaf2", "Hostname": f"127.0.0.1:{self.sqld.port}"}

    def _do(self, method, name, rest, query, body):
        if (method, name) == ("GET", ""):
            return 200, json.dumps({"databases": [self._describe(found) for found in self.databases]})
        if (method, name) == ("POST", ""):
            if body["name"] in self.databases:
                return 409, json.dumps({"error": f"database with name {body['name']} already exists"})
            if body["group"] != "default":
                return 400, json.dumps({"error": "group not found"})
            self.databases.append(body["name"])
            return 200, json.dumps({"database": self._describe(body["name"])})
        if name not in self.databases:
            return 404, json.dumps({"error": f"could not find database with name {name}: record not found"})
        match (method, rest):
            case ("GET", ""):
                return 200, json.dumps({"database": self._describe(name)})
            case ("DELETE", ""):
                self.databases.remove(name)
                return 200, json.dumps({"database": name})
            case ("POST", "auth/tokens"):
                if query != {"expiration": "never", "authorization": "full-access"}:
                    return 400, json.dumps({"error": "Invalid expiration format"})
                # Each is another one.
                self.minted.append(self.sqld.token(lifetime=3600 + len(self.minted)))
                return 200, json.dumps({"jwt": self.minted[-1]})
            case ("POST", "auth/rotate"):
                self.sqld.revoke()
                return 200, ""
        return 404, json.dumps({"error": "not found"})
