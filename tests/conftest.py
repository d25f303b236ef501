"""Fixtures: the real binary, real servers. Everything a test starts is gone when it ends, mounts included."""

import os
import subprocess
from pathlib import Path

import pytest

from lib import container, dispositions, mounts, s3, tenant
from lib.sqld import Sqld

REPO = Path(__file__).resolve().parents[1]

dispositions.undo_inherited()


def _script(name):
    """Runs a script of scripts/ that prints a path."""
    done = subprocess.run([REPO / "scripts" / name], capture_output=True, text=True)
    assert done.returncode == 0, f"scripts/{name} failed:\n{done.stderr}"
    return done.stdout.strip()


@pytest.fixture(scope="session", autouse=True)
def rclone():
    """Path of the rclone that the image ships; every helper of `lib` uses it."""
    if "RCLONE" not in os.environ:
        os.environ["RCLONE"] = _script("fetch-rclone.sh")
    return os.environ["RCLONE"]


@pytest.fixture(scope="session")
def binary():
    """Path of the tenant-init under test."""
    path = tenant.binary()
    assert os.access(path, os.X_OK), f"there is no {path}: run 'make build' first"
    return path


@pytest.fixture
def s3_server(tmp_path):
    """A running S3 server with the empty bucket `notes`."""
    server = s3.S3Server(tmp_path)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def make_s3(tmp_path):
    """Makes further S3 servers; not started yet, so that a test can also begin with an unreachable one."""
    made = []

    def make(name="s3", **kwargs):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        made.append(s3.S3Server(folder, **kwargs))
        return made[-1]

    yield make
    for server in made:
        server.kill()


@pytest.fixture(scope="session")
def sqld_binary():
    """Path of the libSQL server."""
    return os.environ.get("SQLD") or _script("fetch-sqld.sh")


@pytest.fixture
def sqld(tmp_path, sqld_binary):
    """A running libSQL server with an empty database."""
    server = Sqld(tmp_path, binary=sqld_binary)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def make_tenant(tmp_path, binary):
    """Makes tenants (`lib.tenant.Tenant`), not started; `name` is the disk: use it again for the next life on it.

    The app is `sleep` unless `app` says otherwise: basic-memory lives in the image, not on this machine.
    """
    made = []

    def make(s3=None, name="tenant", **kwargs):
        kwargs.setdefault("app", ["sleep", "infinity"])
        made.append(tenant.Tenant(tmp_path / name, s3, program=binary, **kwargs))
        return made[-1]

    yield make
    for one in made:
        one.clean_up()
    mounts.detach_below(tmp_path)


@pytest.fixture
def running_tenant(make_tenant, s3_server):
    """A ready tenant on an empty bucket, with the driver this machine has."""
    return make_tenant(s3_server).start().wait_ready()


@pytest.fixture
def make_container():
    """Makes containers of the tenant image (`lib.container.Container`), not started; each has a new, empty disk."""
    made = []

    def make(s3=None, **kwargs):
        made.append(container.Container(s3, **kwargs))
        return made[-1]

    yield make
    for one in made:
        one.remove()
