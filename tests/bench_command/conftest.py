"""One tenant for the whole folder: `bench` must leave it as it was, so every test finds it so."""

import subprocess

import pytest

from lib import mounts
from lib.proc import Process
from lib.s3 import S3Server
from lib.tenant import Tenant
from lib.wait import wait_until


class Bench:
    """A running tenant with a note of its own, and `tenant-init bench` against it."""

    def __init__(self, folder, binary):
        self.folder = folder
        self.s3 = S3Server(folder)
        self.s3.start()
        # In the environment and not behind `--`: `bench` reads the same configuration and knows the app by it.
        env = {"TENANT_INIT_APP__COMMAND": "sleep infinity"}
        self.tenant = Tenant(folder / "tenant", self.s3, env=env, program=binary)
        self.local = folder / "local"
        self.local.mkdir()
        self.tenant.start().wait_ready()
        (self.tenant.mount / "work").mkdir()
        (self.tenant.mount / "work" / "mine.md").write_text("# Mine\n")
        wait_until(lambda: self.tenant.settled("work/mine.md"), 30, self.tenant.log)

    def run(self, *arguments, prefix=(), local=None, seconds=120):
        """`tenant-init bench` to its end."""
        argv = [*prefix, self.tenant.program, "bench", "--local", local or self.local, *arguments]
        return subprocess.run([str(a) for a in argv], env=self.tenant.env, capture_output=True, text=True, timeout=seconds)

    def spawn(self, *arguments):
        """The same, in the background."""
        argv = [self.tenant.program, "bench", "--local", self.local, *arguments]
        return Process("bench", self.folder).spawn(argv, env=self.tenant.env)

    def ours(self):
        """Folders of a run that are on the mount or on local disk."""
        return [path for place in (self.tenant.mount, self.local) for path in place.glob(".tenant-init-bench-*")]

    def assert_untouched(self):
        """The tenant has what it had and nothing else, on the mount, in the bucket and on local disk."""
        assert sorted(p.name for p in self.tenant.mount.iterdir()) == ["work"]
        assert (self.tenant.mount / "work" / "mine.md").read_text() == "# Mine\n"
        assert list(self.local.iterdir()) == []
        assert self.s3.objects() == {"work/mine.md": 7}
        assert self.tenant.status()["uploads"]["queued"] == 0


@pytest.fixture(scope="module")
def bench(tmp_path_factory, binary):
    folder = tmp_path_factory.mktemp("bench")
    made = Bench(folder, binary)
    yield made
    made.tenant.clean_up()
    made.s3.kill()
    mounts.detach_below(folder)
