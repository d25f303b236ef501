"""A storm over the whole tenant: basic-memory as its app, a bucket and an index database, each behind a network that fails.

Clients outside call basic-memory over MCP and log every acknowledged call (`client.py`). Afterwards the ledger, the bucket and both
copies of the index are compared.

What counts as lost. basic-memory answers a call when the note is in its own database (`memory.db`, on the machine's disk); its file is
written a moment later, and a file that could not be written is written at its next start. So:

* After every end that says "stored", an acknowledged note must be in the bucket, or be marked in `memory.db` as one whose file
  basic-memory still has to write (`note_content.file_write_status` other than `synced`, or a moved note's old file in
  `note_file_vacate`). Nothing else excuses a difference. The disk is part of the tenant here: a machine that dies keeps it.
* At the end of the storm, with fine weather, the tenant is started once more, which is when basic-memory makes up for those. After
  that nothing is excused: every acknowledged note is in the bucket with its last acknowledged content, deleted ones are not there.
* A call that was answered with an error or not at all leaves either state.
* A note whose old file was still to be removed after a move when a fault came can be under both names in the end: basic-memory may
  take the old file for a note of its own at its next start. (Seeds 30a95da6, a3cccdf0: both were in its database.)
* basic-memory's indexer may meet a note in the middle of a move and write its old file again, with no fault near (seed 48e8b5e0: "Retrying
  markdown index" in its log, and the file's time is after the move). So an old file is excused that was written, by its own
  modification time, after the move had begun. (An upload of ours that comes late brings the time of the write before.)
* A note is changed again only when its last change has become a file. Before that basic-memory (0.24.1) is in a race with its own
  writer, with no fault near: the next version is accepted between a file's writing and the noting of its checksum, so the version
  after finds a file that it does not know, takes it for somebody else's (`external_change_detected`), and stays in the database for
  good. (First seen by seed cd9809bf: four edits in four seconds on a tenant that was ready.) A deletion can miss the file likewise.

The index: whenever an end says that everything is stored, `memory.db` and the database are the same, row by row. In the end its notes
are those in the bucket, with the text that is in the bucket.
"""

import contextlib
import random
import sqlite3
import time
from contextlib import closing
from pathlib import Path

from lib import index
from lib.faultproxy import FaultProxy
from lib.sqld import Sqld
from lib.wait import wait_until

from . import ledger
from .client import Client, body
from .machines import WithNotes
from .schedule import FAULTS
from .storm import Storm

PROJECT = "main"  # its folder in the bucket
CLIENTS = 3
MOMENT = 1  # from a fault to the end of the app that it leads to (seconds)
DATABASE_FAULTS = {
    "database refuses": (2, 0.5, 8),
    "database silent": (2, 0.5, 8),
    "database answers 500": (1, 0.5, 8),
    "database answers 503": (1, 0.5, 8),
    "database answers 429": (1, 0.5, 8),
    "database cuts connections": (1, 0, 0),
    "database's answer lost": (2, 0, 0),
    "database slow": (1, 1, 8),
    "database's server killed": (1, 0.5, 5),
    "database's server stopped": (1, 0.5, 5),
}


class Memory:
    """What basic-memory's own database says, read beside it."""

    def __init__(self, path):
        self.path = Path(path)

    def ask(self, sql, *values):
        with closing(sqlite3.connect(f"file:{self.path}?mode=ro", uri=True, timeout=5)) as file:
            return file.execute(sql, values).fetchall()

    def unsettled(self):
        """Paths of files that basic-memory still has to write or to remove."""
        left = self.ask("SELECT file_path FROM note_content WHERE file_write_status <> 'synced' UNION SELECT file_path FROM note_file_vacate")
        return {path for path, in left}

    def settled(self, path):
        try:
            return path not in self.unsettled()
        except sqlite3.Error:
            return False

    def notes(self):
        """Path and text of every note, as the index has them."""
        return dict(self.ask("SELECT e.file_path, n.markdown_content FROM entity e JOIN note_content n ON n.entity_id = e.id"))


class NotesStorm(Storm):
    """`folder` must be new. `image` and `sqld_binary`: as in `lib`."""

    faults = FAULTS | DATABASE_FAULTS

    def __init__(self, folder, seed, sqld_binary=None, steps=6):
        folder = Path(folder)
        self.sqld = Sqld(folder, binary=sqld_binary, auth=True)
        self.database = FaultProxy(self.sqld.port)
        super().__init__(folder, seed, self.machine, steps)
        self.chance = random.Random(f"{seed}/moments")
        self.left_behind = set()  # old files of moved notes that were still to be removed at a fault, or a moment later
        self.struck = 0
        self.memory = Memory(folder / "disk/app/memory.db")
        self.clients = [Client(number, self.ledger, seed, lambda: self.tenant and self.tenant.mcp_url(), self.memory.settled)
                        for number in range(CLIENTS)]

    def machine(self, env):
        return WithNotes(self.folder / "disk", env, self.sqld.url_at(self.database.port))

    def begin(self):
        super().begin()
        self.sqld.start()
        self.database.start()
        for client in self.clients:
            client.start()

    def strike(self, step):
        """basic-memory takes seconds to start. Most faults wait until it works again, and some hit the start."""
        if self.chance.random() < 0.7:
            self.wait_working()
        self.struck = time.monotonic()
        super().strike(step)
        self.note_left_behind()

    def heal(self, everything=False, but=None):
        if time.monotonic() - self.struck < MOMENT:
            self.note_left_behind()
        super().heal(everything, but)

    def go_home(self):
        for client in self.clients:
            client.ending.set()
        for client in self.clients:
            client.end()

    def close(self):
        self.go_home()
        super().close()
        self.database.close()
        self.sqld.kill()

    # -- the comparison --

    def contents(self, path):
        data = self.sky.contents(f"{PROJECT}/{path}")
        return None if data is None else body(data.decode(errors="replace"))

    def compare(self, when):
        excused = self.memory.unsettled() if self.memory.path.exists() else set()
        story = self.story()
        excused |= {name for name in self.left_behind | self.written_again(story)
                    if any(ledger.matches(state, self.contents(name)) for state in story.past.get(name, ()))}
        for difference in ledger.differences(story, self.contents):
            if difference.partition(":")[0] not in excused:
                self.report.problems.append(f"{when}: {difference}")
        asleep = any(fault.startswith("database's server") for _, fault, _ in self.lasting)
        if self.memory.path.exists() and not asleep:
            for difference in index.differences(self.memory.path, self.sqld, words=("note", "call")):
                self.report.problems.append(f"{when}: index: {difference}")

    def written_again(self, story):
        """Old files of moved notes that were written after the move had begun."""
        files = {name: self.sky.server.path / PROJECT / name for name in story.moved}
        return {name for name, file in files.items() if file.exists() and file.stat().st_mtime > story.moved[name]}

    def died(self):
        self.note_left_behind()

    def note_left_behind(self):
        with contextlib.suppress(sqlite3.Error):  # it died before there was one
            self.left_behind |= {path for path, in self.memory.ask("SELECT file_path FROM note_file_vacate")}

    def index_against_bucket(self):
        """What differs between the notes of the index and those in the bucket, in words."""
        known = {path: body(text) for path, text in self.memory.notes().items()}
        stored = {key.removeprefix(f"{PROJECT}/") for key in self.sky.server.objects() if key.endswith(".md")}
        return [f"index: {path} is {'only in the bucket' if path not in known else 'only in the index' if path not in stored else 'another text'}"
                for path in sorted({*known, *stored}) if known.get(path) != self.contents(path)]

    def last_stop(self):
        """One more start, at which basic-memory writes what it could not write, and the end of it all."""
        self.go_home()
        self.tenant.terminate()
        self.ended("stopped, for one more start")
        self.launch()
        if not self.ready_again():
            return
        with contextlib.suppress(TimeoutError):  # what is left is found below, and said there
            wait_until(lambda: not self.memory.unsettled() and not self.index_against_bucket(), 60, "basic-memory has caught up", every=0.3)
        super().last_stop()
        self.report.problems += [f"basic-memory has not caught up with {path}" for path in sorted(self.memory.unsettled())]
        self.report.problems += self.index_against_bucket()

    # -- faults of the database --

    def clear(self):
        super().clear()
        self.database.rtt_ms = 0
        self.database.ok()
        if not self.sqld.process.running():
            self.sqld.start()

    def on_database_refuses(self, _):
        self.database.refuse()
        return self.database.ok

    def on_database_silent(self, _):
        self.database.silent()
        return self.database.ok

    def answers(self, code):
        self.database.status(code)
        return self.database.ok

    def on_database_answers_500(self, _):
        return self.answers(500)

    def on_database_answers_503(self, _):
        return self.answers(503)

    def on_database_answers_429(self, _):
        return self.answers(429)

    def on_database_cuts_connections(self, _):
        self.database.cut()

    def on_database_answer_lost(self, _):
        self.database.swallow_next(b"COMMIT", count=2)

    def on_database_slow(self, _):
        self.database.rtt_ms = 400

        def fast():
            self.database.rtt_ms = 0

        return fast

    def on_database_server_killed(self, _):
        self.sqld.kill()

        def again():
            if not self.sqld.process.running():
                self.sqld.start()

        return again

    def on_database_server_stopped(self, _):
        self.sqld.suspend()
        return self.sqld.resume
