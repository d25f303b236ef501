"""What can be wrong when a tenant starts, one thing each: how to bring it about, and how tenant-init has to end."""

import contextlib
import socket
from dataclasses import dataclass
from typing import Callable

from .wait import free_port

# A mount namespace of its own for what is mounted to get in the way; gone with the process.
PRIVATE_MOUNTS = ["unshare", "--mount", "--propagation", "private", "sh", "-ec"]


@dataclass(frozen=True)
class Trouble:
    name: str
    code: int
    words: str  # in the last line that people see
    arrange: Callable  # (tenant, server) -> context manager that gives the command to start tenant-init under


def _with_env(**variables):
    @contextlib.contextmanager
    def arrange(tenant, _server):
        tenant.env.update({name: value(tenant) if callable(value) else value for name, value in variables.items()})
        yield []

    return arrange


def _with_mounts(script):
    @contextlib.contextmanager
    def arrange(tenant, _server):
        tenant.cache.mkdir(exist_ok=True)
        yield [*PRIVATE_MOUNTS, script.format(mount=tenant.mount, cache=tenant.cache) + '; exec "$@"', "sh"]

    return arrange


@contextlib.contextmanager
def _silent(_tenant, server):
    server.suspend()
    try:
        yield []
    finally:
        server.resume()


@contextlib.contextmanager
def _port_taken(tenant, _server):
    with socket.create_server(("127.0.0.1", tenant.health_port)):
        yield []


@contextlib.contextmanager
def _below_a_file(tenant, _server):
    file = tenant.folder / "file"
    file.write_text("")
    tenant.env["TENANT_INIT_MOUNT__CACHE_DIR"] = str(file / "cache")
    yield []


@contextlib.contextmanager
def _no_capability(_tenant, _server):
    yield ["setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin"]


TROUBLES = [
    Trouble("wrong key", 77, "was rejected (SignatureDoesNotMatch)", _with_env(AWS_SECRET_ACCESS_KEY="WRONGSECRETEXAMPLE")),
    Trouble("missing bucket", 78, "bucket nothing-here does not exist", _with_env(BUCKET_NAME="nothing-here")),
    Trouble("endpoint refused", 69, "connection refused",
            _with_env(AWS_ENDPOINT_URL_S3=lambda _: f"http://127.0.0.1:{free_port()}")),
    Trouble("endpoint silent", 69, "no answer within", _silent),
    Trouble("endpoint without a name", 69, "does not resolve", _with_env(AWS_ENDPOINT_URL_S3="http://bucket.invalid")),
    Trouble("cache directory not creatable", 78, "is not a directory", _below_a_file),
    Trouble("mountpoint busy", 71, "is busy: tmpfs from intruder", _with_mounts("mount -t tmpfs intruder {mount}")),
    Trouble("mountpoint not empty", 71, "is not empty", _with_mounts("touch {mount}/lost.md")),
    Trouble("port in use", 71, "already in use", _port_taken),
    # A device node on a mount without devices cannot be opened, not even by root.
    Trouble("no /dev/fuse", 71, "/dev/fuse cannot be opened",
            lambda tenant, server: _fuse_only(_with_mounts(
                "mount --bind /dev/fuse /dev/fuse; mount -o remount,bind,nodev /dev/fuse"), tenant, server)),
    Trouble("no CAP_SYS_ADMIN", 71, "CAP_SYS_ADMIN", _no_capability),
    Trouble("disk full", 71, "is full", _with_mounts("mount -t tmpfs -o size=1m small {cache}")),
]


def _fuse_only(arrange, tenant, server):
    """On a machine with an NFS client, tenant-init would take that instead."""
    tenant.env["TENANT_INIT_MOUNT__DRIVER"] = "fuse"
    return arrange(tenant, server)
