"""An S3 server with its objects as plain files: `rclone serve s3`."""

import os
import shutil
from pathlib import Path

from .proc import Process
from .server import Server
from .wait import free_port

# Two-letter keys are refused with 403.
KEY_ID = "AKIDEXAMPLE"
SECRET = "SECRETEXAMPLE"


def rclone():
    """Path of rclone: $RCLONE, else the one in PATH."""
    return os.environ.get("RCLONE") or shutil.which("rclone") or "rclone"


class S3Server(Server):
    """`server.folder/BUCKET/key` is the object `key`."""

    def __init__(self, folder, bucket="notes", key_id=KEY_ID, secret=SECRET, host="127.0.0.1", port=None, prefix=()):
        self.folder = Path(folder) / "buckets"
        self.bucket = bucket
        self.key_id, self.secret = key_id, secret
        self.host, self.port = host, port or free_port()
        self.prefix = prefix
        self.process = Process("s3", Path(folder))
        self.path.mkdir(parents=True, exist_ok=True)

    @property
    def path(self):
        """The folder of the bucket."""
        return self.folder / self.bucket

    @property
    def endpoint(self):
        return f"http://{self.host}:{self.port}"

    def start(self, *extra):
        """Starts it and waits until it accepts connections. Keeps port and objects when started again.

        Its directory cache is short, not off: with 0 rclone cleans each directory's cache in an endless loop, a core's worth.
        """
        argv = [rclone(), "serve", "s3", self.folder, "--auth-key", f"{self.key_id},{self.secret}",
                "--addr", f"{self.host}:{self.port}", "--vfs-cache-mode", "off", "--dir-cache-time", "5ms",
                "--poll-interval", "0s", "--log-level", "ERROR", *extra]
        self.process.spawn(argv, env={**os.environ, "RCLONE_CONFIG": "/dev/null"}, prefix=self.prefix)
        self.await_listening()
        return self

    def env(self):
        """What Fly and Tigris set for this bucket."""
        return {"BUCKET_NAME": self.bucket, "AWS_ENDPOINT_URL_S3": self.endpoint, "AWS_REGION": "auto",
                "AWS_ACCESS_KEY_ID": self.key_id, "AWS_SECRET_ACCESS_KEY": self.secret}

    def rclone_env(self):
        """For plain rclone as a second client: the remote `T:`."""
        return {"RCLONE_CONFIG": "/dev/null", "RCLONE_CONFIG_T_TYPE": "s3", "RCLONE_CONFIG_T_PROVIDER": "Rclone",
                "RCLONE_CONFIG_T_ENDPOINT": self.endpoint, "RCLONE_CONFIG_T_ACCESS_KEY_ID": self.key_id,
                "RCLONE_CONFIG_T_SECRET_ACCESS_KEY": self.secret}

    def objects(self, own=False):
        """Names and sizes of the objects; those of tenant-init itself (`.tenant-init/…`) only with `own`."""
        found = {}
        for folder, _, files in os.walk(self.path):
            for name in files:
                path = Path(folder) / name
                key = str(path.relative_to(self.path))
                if own or not key.startswith(".tenant-init/"):
                    found[key] = path.stat().st_size
        return found

    def read(self, key):
        return (self.path / key).read_text()

    def put(self, key, text):
        """An object changed by somebody else."""
        path = self.path / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
