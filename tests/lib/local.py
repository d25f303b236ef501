"""`tenant-init mount` as somebody uses it on a computer: as root or as an ordinary user, with the bundle in a file."""

import json
import os
import shutil
import subprocess
import time

from .s3 import rclone
from .tenant import Tenant
from .wait import wait_until

NOBODY = 65534

# On most machines everybody may open /dev/fuse. Where only root may: in a mount namespace of its own, in which there is another node.
# Needs the mounts below the tests' folder to be shared, so that this process sees them.
OPEN_FUSE = """
if [ "$(stat -L -c %a /dev/fuse)" != 666 ]; then
    [ -e "$0" ] || mknod -m 666 "$0" c 10 229
    mount --bind "$0" /dev/fuse
fi
exec "$@"
"""


def bundle(s3, **more):
    """The credential bundle of a bucket."""
    storage = {"bucket": s3.bucket, "endpoint": s3.endpoint, "region": "auto",
               "access_key_id": s3.key_id, "secret_access_key": s3.secret}
    return json.dumps({"version": 1, "tenant_id": "acme", "storage": {**storage, **more.pop("storage", {})}, **more})


class LocalMount(Tenant):
    """One life of `tenant-init mount` in `folder`, which is the home of `user` (a uid; None: root)."""

    def __init__(self, folder, s3, user=None, arguments=(), env=None, program=None, mount=None, **bundled):
        super().__init__(folder, program=program, arguments=arguments)
        self.user = user
        self.mount = mount or self.mount
        self.file = self.folder / "bundle.json"
        self.file.write_text(bundle(s3, **bundled))
        self.file.chmod(0o600)
        programs = self.folder / "bin"
        programs.mkdir(exist_ok=True)
        if not (programs / "rclone").exists():
            # Root's own copy lies where nobody else may look.
            shutil.copy(rclone(), programs / "rclone")
        self.env = {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "HOME": str(self.folder),
            "XDG_RUNTIME_DIR": str(self.folder / "runtime"),
            "TENANT_INIT_MOUNT__CACHE_DIR": str(self.cache),
            "TENANT_INIT_MOUNT__RUN_DIR": str(self.folder / "run"),
            "TENANT_INIT_MOUNT__REFRESH_INTERVAL": "1s",
            "TENANT_INIT_MOUNT__ATTRIBUTE_TIMEOUT": "1s",
            **(env or {}),
        }
        if user is not None:
            # Not what a life before has left mounted: nobody may look at it.
            for path in (self.folder, self.file, *([] if self.mounts() else [self.mount])):
                os.chown(path, user, user)

    @property
    def identity(self):
        """For subprocess: who uses the mount. Nobody else may, not even root."""
        return {} if self.user is None else {"user": self.user, "group": self.user, "extra_groups": []}

    def command(self):
        """Started by root, as the user."""
        command = [self.program, "mount", self.mount, "--bundle", self.file, *self.arguments]
        if self.user is None:
            return command
        ids = [f"--reuid={self.user}", f"--regid={self.user}", "--clear-groups"]
        return ["unshare", "--mount", "--propagation=unchanged", "sh", "-c", OPEN_FUSE, self.folder / "fuse", "setpriv", *ids, *command]

    def start(self, prefix=(), **kwargs):
        for stale in (self.process.out, self.process.err):
            stale.unlink(missing_ok=True)
        self.started = time.monotonic()
        self.process.spawn(self.command(), env=self.env, prefix=prefix, cwd="/", **kwargs)
        return self

    def wait_ready(self, seconds=30):
        def ready():
            if not self.process.running():
                raise RuntimeError(f"ended with {self.process.process.returncode}:\n{self.log()[-3000:]}")
            return "is mounted" in self.log()

        wait_until(ready, seconds, lambda: f"mounted\n{self.log()[-3000:]}")
        return self

    def says(self, words, seconds=30):
        """Waits until it has said so."""
        wait_until(lambda: words in self.log(), seconds, lambda: f"{words!r}\n{self.log()[-3000:]}")

    def sh(self, script):
        """Runs a script in the mounted directory, as whoever uses it; returns what it prints."""
        done = subprocess.run(["sh", "-c", script], cwd="/", env={"PATH": os.environ["PATH"], "M": str(self.mount)},
                              capture_output=True, text=True, timeout=30, **self.identity)
        assert done.returncode == 0, f"{script}: {done.stderr}"
        return done.stdout

    def write(self, name, text):
        self.sh(f'printf %s "{text}" > "$M/{name}"')

    def read(self, name):
        return self.sh(f'cat "$M/{name}"')
