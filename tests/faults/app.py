"""The app of the table of faults: a steady writer and reader. Copied beside storm/writer.py, whose ledger it keeps.

    app.py FOLDER LEDGER SEED

Ten times a second it does one of the things that editors and basic-memory do. USR1: writes 200 new files as fast as it can.
USR2: does nothing more. Ended by TERM at once, whatever it is doing.
"""

import os
import signal
import sys
import time

from writer import FILES, Writer, digest

BURST = 200
PERIOD = 0.1


class App(Writer):
    def __init__(self, *arguments):
        self.failed = False
        super().__init__(*arguments)
        self.burst = self.idle = self.failed = False
        signal.signal(signal.SIGUSR1, lambda *_: setattr(self, "burst", True))
        signal.signal(signal.SIGUSR2, lambda *_: setattr(self, "idle", True))

    def note(self, **fields):
        self.failed |= "code" in fields or "unreadable" in fields or "wrong" in fields
        super().note(**fields)

    def step(self):
        self.number += 1
        self.failed = False
        name = self.name(self.random.randrange(FILES))
        there = self.here.get(name)
        action = self.random.choices(("replace", "append", "read", "list"), (3, 2, 3, 2))[0]
        if action == "list":
            self.do_list(os.path.dirname(name))
        elif there is None:
            self.do_write(name)
        elif action == "append" and len(there) > 4000:
            self.do_replace(name)
        else:
            getattr(self, f"do_{action}")(name)
        if not self.failed:
            self.note(done=self.number)

    def do_list(self, folder):
        known = {os.path.basename(name) for name in self.here if name.startswith(folder + "/")}
        try:
            found = set(os.listdir(self.path(folder)))
        except FileNotFoundError:
            found = set()
        except OSError as error:
            self.note(unreadable=folder, error=os.strerror(error.errno))
            return
        if not known <= found:
            self.note(unreadable=folder, error=f"{len(known - found)} files are missing")

    def do_burst(self):
        for number in range(BURST):
            name = f"burst-{self.life}/note {number}.md"
            data = f"{name}\n".encode() * 20
            self.number += 1
            self.attempt("write", lambda: self.put(self.path(name), data, os.O_CREAT | os.O_TRUNC),
                         name=name, size=len(data), sha=digest(data))
        self.note(burst=BURST)

    def run(self):
        self.look()
        while True:
            if self.burst:
                self.burst = False
                self.do_burst()
            elif not self.idle:
                self.step()
            time.sleep(PERIOD)


if __name__ == "__main__":
    App(*sys.argv[1:4]).run()
