"""A tenant with an index database: its bucket, its database, the network between, and the machines that come and go on them."""

import json
import time
from pathlib import Path

from . import index
from .container import IMAGE, Container
from .faultproxy import FaultProxy
from .mcp import McpClient
from .s3 import S3Server
from .sqld import Sqld
from .wait import wait_until

CONFIG_DIR = "/var/lib/tenant-init/app"
PROMPT = 15  # seconds a call of the app may take, whatever the database does


class Machine(Container):
    """One machine. `disk` is a folder of this host: give it again for a machine that comes back with its disk."""

    def __init__(self, disk, s3, database_url, env=None, image=IMAGE):
        self.disk = Path(disk)
        self.disk.mkdir(parents=True, exist_ok=True)
        super().__init__(s3, env={"DATABASE_URL": database_url, **(env or {})},
                         options=["--volume", f"{self.disk}:/var/lib/tenant-init"], image=image)

    @property
    def memory_db(self):
        return self.disk / "app/memory.db"

    def mcp(self, seconds=60):
        return McpClient(self.mcp_url(), seconds)

    def call(self, tool, **arguments):
        """One call of a tool in a session of its own."""
        with self.mcp() as mcp:
            return mcp.call(tool, **arguments)

    def write(self, title, text, directory="notes"):
        return self.call("write_note", title=title, directory=directory, content=f"# {title}\n{text}")

    def finds(self, word, title):
        return title in self.call("search_notes", query=word)

    def use(self, label):
        """Writes, reads, finds and edits a note; every call answers soon and says what it says on any day. Returns its title."""
        title, word, identifier = f"During {label}", f"word{label.replace('_', '')}", f"notes/during-{label.replace('_', '-')}"

        def timed(tool, **arguments):
            begin = time.monotonic()
            answer = self.call(tool, **arguments)
            assert time.monotonic() - begin < PROMPT, f"{tool} took {time.monotonic() - begin:.1f} s"
            return answer

        timed("write_note", title=title, directory="notes", content=f"# {title}\nA note with {word}.")
        assert word in timed("read_note", identifier=identifier)
        assert title in timed("search_notes", query=word)
        timed("edit_note", identifier=identifier, operation="append", content="\nOne more line.")
        return title

    def basic_memory(self, *arguments, seconds=90):
        """`basic-memory …` on the command line in the container, as its own user."""
        done = self.exec("basic-memory", *arguments, seconds=seconds,
                         options=["--user", "app", "--env", f"BASIC_MEMORY_CONFIG_DIR={CONFIG_DIR}", "--env", f"HOME={CONFIG_DIR}",
                                  "--env", "BASIC_MEMORY_HOME=/data/main", "--env", "BASIC_MEMORY_NO_PROMOS=1"])
        assert done.returncode == 0, f"basic-memory {arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def events(self, name):
        """Log lines with this event."""
        found = []
        for line in self.log().splitlines():
            try:
                said = json.loads(line)
            except ValueError:
                continue
            if isinstance(said, dict) and said.get("event") == name:
                found.append(said)
        return found

    def reasons(self):
        """Codes of the reasons in `/status`."""
        return {reason.split(":")[0] for reason in self.status()["reasons"]}

    def wait_shipped(self, seconds=60):
        """Until nothing is on its way to the database, by `/status`."""
        def shipped():
            at = self.status()["index"]
            return at["outbox"] == 0 and at["lag_seconds"] == 0

        wait_until(shipped, seconds, lambda: f"everything is in the database: {self._state()}", every=0.1)
        return self

    def _state(self):
        at = self.status()
        said = {name: at[name] for name in ("phase", "reasons", "index", "database", "lease")}
        return said | {"service": at["services"]["index"]}


class IndexedTenant:
    """Bucket and database of one tenant, in `folder`. `proxy` is the network between every machine and the database."""

    def __init__(self, folder, sqld_binary, lease_ttl="5s", env=None, image=IMAGE):
        self.image = image
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.s3 = S3Server(self.folder)
        self.sqld = Sqld(self.folder, binary=sqld_binary, auth=True)
        self.proxy = FaultProxy(self.sqld.port)
        self.env = {"TENANT_INIT_INDEX__LEASE_TTL": lease_ttl, **(env or {})}
        self.machines = []

    def start(self):
        self.s3.start()
        self.sqld.start()
        self.proxy.start()
        return self

    def close(self):
        for machine in self.machines:
            machine.remove()
        self.proxy.close()
        self.sqld.kill()
        self.s3.kill()

    def wait_stored(self, title, count, directory="notes", seconds=120):
        """Until the notes `title 0`, `title 1`, … are in the bucket. write_note answers before even the file is written."""
        keys = {f"main/{directory}/{title} {number}.md" for number in range(count)}
        wait_until(lambda: keys <= set(self.s3.objects()), seconds, lambda: f"{sorted(keys)} are in the bucket", every=0.2)

    def machine(self, disk=None, database_url=None, s3=None, env=None):
        """A machine, not started; with a new disk unless it gets one."""
        disk = disk or self.folder / f"disk-{len(self.machines)}"
        url = database_url or self.sqld.url_at(self.proxy.port)
        self.machines.append(Machine(disk, s3 or self.s3, url, {**self.env, **(env or {})}, self.image))
        return self.machines[-1]

    def ready_machine(self, disk=None, tries=5, **kwargs):
        """A ready machine, as a platform gets one: a start that ended with 69 (nothing to reach) is tried again on its disk."""
        for _ in range(tries):
            machine = self.machine(disk, **kwargs).start()
            wait_until(lambda: not machine.running() or machine.get("/readyz")[0] == 200, 120,
                       lambda: f"ready or ended:\n{machine.log()[-4000:]}", every=0.2)
            if machine.running():
                return machine
            end = machine.wait()
            assert end.code == 69, f"{end}\n{machine.log()[-4000:]}"
            disk = machine.disk
        raise AssertionError(f"not ready after {tries} starts: {end.last_line}")

    def alone(self):
        """Kills whatever machine still runs (after a test that failed), so that the next one waits for nobody but the lease."""
        for machine in self.machines:
            machine.remove()
        return self

    def wait_same(self, machine, seconds=60, words=("zebra", "note")):
        """Until the machine's file and the database are the same index. basic-memory may still be working on notes."""
        last = []

        def same():
            last[:] = index.differences(machine.memory_db, self.sqld, words)
            return not last and machine.status()["index"]["outbox"] == 0

        wait_until(same, seconds, lambda: "file and database are the same:\n" + "\n".join(last), every=0.3)

    def lease(self):
        return index.lease(self.sqld)

    def assert_once(self, title):
        """The note is in the database, once."""
        assert self.titles().count(title) == 1, self.titles()
        assert self.sqld.query("SELECT count(*) FROM search_index WHERE type = 'entity' AND title = ?", title) == [(1,)]

    def titles(self):
        """Titles of all notes in the database, sorted."""
        return [title for title, in self.sqld.query("SELECT title FROM entity ORDER BY title")]
