"""The app of a storm: changes files on the mount for as long as it lives, and keeps a ledger of what it was told is done.

    writer.py FOLDER LEDGER SEED

The ledger is outside the tenant (another disk, another user's folder), one JSON object a line, each written with one call: `begin`
before an operation, `ok` or `error` after it. What has a `begin` only was cut short by the end of this process. At its start the
writer looks at every file it has ever named and notes what it sees. `ledger.py` reads all this.
"""

import errno
import hashlib
import json
import os
import random
import sys
import time

FILES = 24
LONGEST = 20_000


def digest(data):
    return hashlib.sha256(data).hexdigest()[:16]


class Writer:
    def __init__(self, folder, ledger, seed):
        self.folder = folder
        self.ledger_path = ledger
        self.life = self._lives() + 1
        self.ledger = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        self.random = random.Random(f"{seed}/{self.life}")
        self.number = 0
        self.here = {}  # name: content as this process knows it

    def _lives(self):
        try:
            with open(self.ledger_path) as f:
                return sum('"look"' in line for line in f)
        except FileNotFoundError:
            return 0

    def note(self, **fields):
        os.write(self.ledger, (json.dumps({"t": round(time.time(), 3), **fields}) + "\n").encode())

    def path(self, name):
        return os.path.join(self.folder, name)

    def read(self, name):
        """The file's bytes; None when there is none."""
        try:
            with open(self.path(name), "rb") as f:
                return f.read()
        except FileNotFoundError:
            return None

    def look(self):
        """What a new life finds. The mount was ready before this process was started: not being able to read is an error."""
        self.note(look=self.life)
        for number in range(FILES):
            name = self.name(number)
            try:
                data = self.read(name)
            except OSError as error:
                self.note(unreadable=name, error=errno.errorcode.get(error.errno, "?"))
                continue
            self.note(seen=name, size=None if data is None else len(data), sha=None if data is None else digest(data))
            if data is not None:
                self.here[name] = data

    @staticmethod
    def name(number):
        return f"folder-{number % 3}/note {number}.md"

    def content(self, name):
        text = f"# {name}\nlife {self.life} operation {self.number}\n"
        return (text + "x" * self.random.randrange(0, self.random.choice((40, 400, LONGEST)))).encode() + b"\n"

    def step(self):
        self.number += 1
        name = self.name(self.random.randrange(FILES))
        action = self.random.choices(("replace", "write", "append", "rename", "delete", "read"), (5, 3, 5, 1, 1, 4))[0]
        there = self.here.get(name)
        if there is None and action in ("append", "rename", "delete", "read"):
            action = "write"
        if action == "write" and there is not None:
            action = "replace"  # writing over a file in place can be cut in the middle on any file system
        if there is not None and len(there) > LONGEST:
            action = "delete"
        getattr(self, f"do_{action}")(name)

    def attempt(self, operation, change, **fields):
        """Notes, tries, notes. True when the file system said that it is done."""
        number = f"{self.life}.{self.number}"
        self.note(begin=number, op=operation, **fields)
        try:
            change()
        except OSError as error:
            self.note(error=number, code=errno.errorcode.get(error.errno, str(error.errno)))
            return False
        self.note(ok=number)
        return True

    def put(self, path, data, flags):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        fd = os.open(path, os.O_WRONLY | flags, 0o644)
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(fd, rest):]
            os.fsync(fd)
        finally:
            os.close(fd)

    def forget(self, name):
        """After a failure nobody knows what is there: look, and if even that fails leave the file alone."""
        try:
            data = self.read(name)
        except OSError:
            self.here.pop(name, None)
            return
        self.note(seen=name, size=None if data is None else len(data), sha=None if data is None else digest(data))
        self.here.pop(name, None)
        if data is not None:
            self.here[name] = data

    def do_write(self, name):
        data = self.content(name)
        done = self.attempt("write", lambda: self.put(self.path(name), data, os.O_CREAT | os.O_TRUNC),
                            name=name, size=len(data), sha=digest(data))
        if done:
            self.here[name] = data
        else:
            self.forget(name)

    def do_replace(self, name):
        data = self.content(name)
        temporary = self.path(f"folder-0/.{self.number}.tmp")

        def change():
            self.put(temporary, data, os.O_CREAT | os.O_TRUNC)
            os.makedirs(os.path.dirname(self.path(name)), exist_ok=True)
            os.replace(temporary, self.path(name))

        if self.attempt("replace", change, name=name, size=len(data), sha=digest(data)):
            self.here[name] = data
        else:
            self.forget(name)

    def do_append(self, name):
        before = self.here[name]
        line = f"appended by life {self.life} operation {self.number}\n".encode()
        after = before + line
        done = self.attempt("append", lambda: self.put(self.path(name), line, os.O_APPEND | os.O_CREAT), name=name,
                            size=len(after), sha=digest(after), before=len(before))
        if done:
            self.here[name] = after
        else:
            self.forget(name)

    def do_rename(self, name):
        to = self.name(self.random.randrange(FILES))
        if to == name:
            return
        data = self.here[name]

        def change():
            os.makedirs(os.path.dirname(self.path(to)), exist_ok=True)
            os.replace(self.path(name), self.path(to))

        if self.attempt("rename", change, name=name, to=to, size=len(data), sha=digest(data)):
            self.here[to] = self.here.pop(name)
        else:
            self.forget(name)
            self.forget(to)

    def do_delete(self, name):
        if self.attempt("delete", lambda: os.unlink(self.path(name)), name=name):
            del self.here[name]
        else:
            self.forget(name)

    def do_read(self, name):
        try:
            data = self.read(name)
        except OSError as error:
            self.note(unreadable=name, error=errno.errorcode.get(error.errno, "?"))
            return
        if data != self.here[name]:
            self.note(wrong=name, size=None if data is None else len(data), sha=None if data is None else digest(data))
            self.here.pop(name)
            if data is not None:
                self.here[name] = data

    def run(self):
        self.look()
        while True:
            self.step()
            # A person's pace now and then, a burst now and then.
            time.sleep(self.random.choice((0, 0, 0.002, 0.02, 0.2)))


if __name__ == "__main__":
    Writer(*sys.argv[1:4]).run()
