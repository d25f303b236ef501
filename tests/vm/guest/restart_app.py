"""An app under load, for restart.py: everything a program does to files, each result checked, each acknowledgement noted.

    restart_app.py LOGS SEED     the working directory is the mount; ends on SIGTERM

`LOGS/WORKER.jsonl` gets one line for each thing that went wrong, and at the end what the worker's files must be.
Standard library only, and nothing of this repository: it runs as the app's user, with the app's environment.
"""

import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

STATIC = {f"static/{n:02}.md": f"# note {n}\n" + "word " * (50 * n) for n in range(24)}


class Worker:
    """One process. Subclasses have `step`, which raises when the file system did anything wrong."""

    def __init__(self, logs, seed, number):
        self.name = f"{type(self).__name__.lower()}-{number}"
        self.log_path = Path(logs) / f"{self.name}.jsonl"
        self.random = random.Random(f"{seed} {self.name}")
        self.folder = Path(self.name)
        self.files = {}  # name -> content that was acknowledged
        self.steps, self.longest, self.errors = 0, 0.0, 0
        self.running = True

    def run(self):
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "running", False))
        with open(self.log_path, "a", buffering=1) as log:
            self.folder.mkdir()
            while self.running:
                began = time.monotonic()
                try:
                    self.step()
                except Exception as error:
                    self.errors += 1
                    log.write(json.dumps({"error": repr(error), "at": time.time(), "trace": traceback.format_exc()}) + "\n")
                self.longest = max(self.longest, time.monotonic() - began)
                self.steps += 1
                time.sleep(self.random.uniform(0, 0.02))
            self.finish()
            log.write(json.dumps({"files": self.files, "steps": self.steps, "longest": self.longest,
                                  "errors": self.errors}) + "\n")

    def finish(self):
        """Before the files are what was noted."""

    def text(self):
        return f"{self.random.random()} {self.steps}\n" * self.random.choice([1, 20, 2000])

    def path(self, name):
        return self.folder / name


def write(path, text, mode="w"):
    with open(path, mode) as f:
        f.write(text)
        f.flush()
        os.fsync(f.fileno())


def check(found, expected, what):
    if found != expected:
        shown = [repr(text)[:60] + f" ({len(text)})" if isinstance(text, str) else repr(text) for text in (found, expected)]
        raise AssertionError(f"{what}: {shown[0]} instead of {shown[1]}")


class Replacer(Worker):
    """Writes a temporary file, syncs it, renames it over one of a few names, as editors do."""

    def step(self):
        name, text = f"{self.random.randrange(12)}.md", self.text()
        write(self.path(name + ".tmp"), text, "x")
        os.replace(self.path(name + ".tmp"), self.path(name))
        self.files[name] = text
        other = self.random.choice(sorted(self.files))
        check(self.path(other).read_text(), self.files[other], other)


class Appender(Worker):
    """A log: one descriptor kept open over everything, and one file opened for each line."""

    def step(self):
        line = f"line {self.steps} {self.random.random()}\n"
        if self.steps == 0:
            self.log = open(self.path("kept.log"), "a+")
        self.log.write(line)
        self.log.flush()
        os.fsync(self.log.fileno())
        self.files["kept.log"] = self.files.get("kept.log", "") + line
        with open(self.path("opened.log"), "a") as f:
            f.write(line)
        self.files["opened.log"] = self.files.get("opened.log", "") + line
        if self.steps % 10 == 0:
            self.log.seek(0)
            check(self.log.read(), self.files["kept.log"], "kept.log")
            check(self.path("opened.log").read_text(), self.files["opened.log"], "opened.log")

    def finish(self):
        self.log.close()


class Reader(Worker):
    """Reads files that nobody changes, by name and by a descriptor that is kept."""

    def step(self):
        if self.steps == 0:
            self.kept = {name: open(name) for name in list(STATIC)[:3]}
        name = self.random.choice(list(STATIC))
        check(Path(name).read_text(), STATIC[name], name)
        check(os.stat(name).st_size, len(STATIC[name]), name + " size")
        name = self.random.choice(list(self.kept))
        self.kept[name].seek(0)
        check(self.kept[name].read(), STATIC[name], name + " kept open")


class Lister(Worker):
    """Lists a directory that nobody changes, and directories that it makes and removes, which are nowhere in a bucket."""

    def step(self):
        expected = sorted(Path(name).name for name in STATIC)
        check(sorted(os.listdir("static")), expected, "static")
        with os.scandir("static") as entries:
            sizes = {f"static/{entry.name}": entry.stat().st_size for entry in entries}
        check(sizes, {name: len(text) for name, text in STATIC.items()}, "sizes")
        name = f"empty-{self.random.randrange(4)}"
        made = self.__dict__.setdefault("made", set())
        if name in made:
            os.rmdir(self.path(name))
            made.remove(name)
        else:
            os.mkdir(self.path(name))
            made.add(name)
        check(sorted(os.listdir(self.folder)), sorted(made), "directories")

    def finish(self):
        for name in self.made:
            os.rmdir(self.path(name))


class Deleter(Worker):
    """Creates exclusively, renames, deletes, and reads what was deleted while it is open."""

    def step(self):
        name, text = f"{self.random.randrange(8)}.md", self.text()
        if name in self.files and self.random.random() < 0.5:
            with open(self.path(name)) as f:
                os.unlink(self.path(name))
                check(f.read(), self.files.pop(name), name + " unlinked while open")
            check(self.path(name).exists(), False, name + " exists")
        elif name in self.files:
            try:
                open(self.path(name), "x")
                raise AssertionError(f"{name} was made twice")
            except FileExistsError:
                pass
            other = name.replace(".md", ".moved.md")
            os.rename(self.path(name), self.path(other))
            self.files[other] = self.files.pop(name)
            check(self.path(other).read_text(), self.files[other], other)
        else:
            write(self.path(name), text, "x")
            self.files[name] = text


class Pulse(Worker):
    """One call that always goes to rclone, again and again: its longest step is the pause that an app sees."""

    def step(self):
        os.statvfs(".")


def main(logs, seed):
    kinds = [Replacer, Replacer, Appender, Reader, Lister, Deleter, Pulse]
    workers = [kind(logs, seed, number) for number, kind in enumerate(kinds)]
    children = []
    for worker in workers:
        pid = os.fork()
        if pid == 0:
            worker.run()
            os._exit(0)
        children.append(pid)
    for pid in children:
        os.waitpid(pid, 0)
    # The workers were told to end, not the app: it ends when the tenant stops it.
    signal.pause()


if __name__ == "__main__":
    main(*sys.argv[1:])
