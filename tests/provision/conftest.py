"""An organization: a real S3 server, a real libSQL server with tokens, and fakes of the two administration APIs."""

import os
import subprocess
from pathlib import Path

import pytest

from lib import tenant
from lib.adminapis import Iam, Turso
from lib.sqld import Sqld

ADMIN = ("AKIDADMINEXAMPLE", "SECRETADMINEXAMPLE")
TOKEN = "PLATFORMTOKENEXAMPLE"
# An S3 server of rclone learns its keys at start.
POOL = [(f"tid_EXAMPLE{n}", f"tsec_SECRETEXAMPLE{n}") for n in range(80)]


def program():
    """The tenant-provision under test: $TENANT_PROVISION_BIN, else beside the tenant-init under test."""
    given = os.environ.get("TENANT_PROVISION_BIN")
    return Path(given) if given else Path(tenant.binary()).with_name("tenant-provision")


class Organization:
    def __init__(self, folder, s3, sqld):
        self.folder, self.s3 = folder, s3
        self.iam = Iam(*ADMIN, POOL)
        self.turso = Turso(TOKEN, "org", sqld)
        self.env = {
            "TIGRIS_ADMIN_ACCESS_KEY_ID": ADMIN[0], "TIGRIS_ADMIN_SECRET_ACCESS_KEY": ADMIN[1],
            "TURSO_API_TOKEN": TOKEN, "TURSO_ORGANIZATION": "org", "TURSO_DATABASE_SCHEME": "http",
            "TIGRIS_ENDPOINT_S3": s3.endpoint, "TIGRIS_ENDPOINT_IAM": self.iam.endpoint,
            "TURSO_ENDPOINT_API": self.turso.endpoint,
        }

    def argv(self, command, tenant="", *arguments):
        bundle = ["--bundle", self.bundle(tenant)] if command in ("create", "rotate") else []
        return [program(), command, *([tenant] if tenant else []), *bundle, *arguments]

    def run(self, command, tenant="", *arguments, **env):
        """Runs it. No secret is ever on stderr; what is on stdout is for the test to look at."""
        done = subprocess.run(self.argv(command, tenant, *arguments), env={**self.env, **env}, capture_output=True,
                              stdin=subprocess.DEVNULL, text=True, timeout=100)
        secrets = [ADMIN[1], TOKEN, *(secret for _, secret in POOL), *self.turso.minted]
        assert not [secret for secret in secrets if secret in done.stderr], done.stderr
        return done

    def bundle(self, tenant):
        return self.folder / f"{tenant}.json"

    def buckets(self):
        return sorted(path.name for path in self.s3.folder.iterdir())

    def everything(self):
        """All that a command could change."""
        objects = sorted(str(path) for path in self.s3.folder.rglob("*"))
        files = {path.name: path.read_text() for path in self.folder.glob("*.json*")}
        policies = {arn: (policy["document"], list(policy["keys"])) for arn, policy in self.iam.policies.items()}
        return objects, files, dict(self.iam.keys), policies, list(self.turso.databases)

    def forget(self):
        self.iam.calls.clear()
        self.turso.calls.clear()

    def stop(self):
        self.iam.stop()
        self.turso.stop()


@pytest.fixture(scope="module")
def organization(tmp_path_factory, sqld_binary, rclone):
    from lib.s3 import S3Server

    folder = tmp_path_factory.mktemp("organization")
    (folder / "bundles").mkdir()
    assert program().exists(), f"there is no {program()}: run 'make build' first"
    s3 = S3Server(folder, bucket="elsewhere", key_id=ADMIN[0], secret=ADMIN[1])
    s3.start(*[part for key in POOL for part in ("--auth-key", ",".join(key))])
    sqld = Sqld(folder, binary=sqld_binary, auth=True)
    sqld.start()
    organization = Organization(folder / "bundles", s3, sqld)
    yield organization
    organization.stop()
    sqld.kill()
    s3.kill()
