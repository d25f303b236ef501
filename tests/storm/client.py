"""The client of a storm over basic-memory: writes, edits, moves, deletes and reads notes over MCP, and keeps the ledger outside the tenant.

Each client is a thread of the storm, makes one call at a time and has notes of its own. The ledger's names are paths of files in the project's folder, a content is the lines of a
note's body that are not empty (`body`): what basic-memory adds at the top of a file, and how many empty lines it puts between two edits,
is its own affair.

A call that was answered with an error, or not at all, may or may not have been carried out, now or later. Its notes are not touched
again. Only a call that nobody can have heard (connection refused, a session that the server does not know) is as if never made.
"""

import json
import os
import random
import threading
import time

from lib.mcp import McpClient, McpError

from .writer import digest

DIRECTORY, ELSEWHERE = "notes", "moved"
MOST = 6  # notes at a time
PATIENCE = 10  # seconds a call may take


def body(text):
    """What a note says: its lines without frontmatter and empty ones, as bytes."""
    if text.startswith("---\n"):
        text = text[4:].partition("\n---\n")[2]
    return "\n".join(line.rstrip() for line in text.splitlines() if line.strip()).encode()


class Client(threading.Thread):
    """`address()` gives the URL of the life that is there, `settled(path)` says whether basic-memory has no work left with a file."""

    def __init__(self, number, ledger, seed, address, settled):
        super().__init__(name=f"client {number}", daemon=True)
        self.me = number
        self.ledger = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        self.random = random.Random(f"{seed}/client {number}")
        self.address, self.settled = address, settled
        self.notes = {}  # path: (identifier, text)
        self.number = 0
        self.session = None
        self.ending = threading.Event()

    def note(self, **fields):
        os.write(self.ledger, (json.dumps({"t": round(time.time(), 3), **fields}) + "\n").encode())

    def run(self):
        while not self.ending.is_set():
            if self.connected():
                self.step()
            self.ending.wait(self.random.choice((0, 0, 0.02, 0.2)) if self.session else 0.2)
        os.close(self.ledger)

    def end(self):
        self.ending.set()
        self.join(3 * PATIENCE)

    def connected(self):
        if self.session is None and (address := self.address()):
            try:
                self.session = McpClient(address, PATIENCE).__enter__()
            except (OSError, ValueError, McpError):
                pass
        return self.session is not None

    # -- calls --

    def step(self):
        self.number += 1
        path = self.random.choice(sorted(self.notes)) if self.notes else None
        action = self.random.choices(("write", "edit", "replace", "delete", "move", "read"), (4, 4, 2, 1, 1, 3))[0]
        if path is None or (action == "write" and len(self.notes) < MOST):
            return self.do_write()
        if action == "write":
            action = "delete"
        # See notes.py: what is asked for before the last change is a file is a race inside basic-memory.
        if action != "read" and not self.settled(path):
            action = "read"
        return getattr(self, f"do_{action}")(path)

    def call(self, tool, **arguments):
        """The answer, parsed. None when it is not known what came of the call; False when it came to nothing."""
        try:
            answer = json.loads(self.session.call(tool, output_format="json", **arguments))
        except ConnectionRefusedError:
            self.session = None
            return False
        except McpError as error:
            unknown_session = str(error).startswith("HTTP 4")
            if unknown_session:
                self.session = None
            return False if unknown_session else None
        except (OSError, ValueError):
            self.session = None
            return None
        return answer if not answer.get("error") else None

    def attempt(self, what, tool, succeeded, entry, arguments):
        """One call that changes something, with its lines in the ledger (`what`, `entry`). Its answer, when it was carried out."""
        number = f"{self.me}.{self.number}"
        self.note(begin=number, op=what, **entry)
        answer = self.call(tool, **arguments)
        if answer is False:
            self.note(refused=number)
            return None
        if answer is None or not succeeded(answer):
            self.note(error=number, code=tool)
            for path in (entry["name"], entry.get("to")):
                self.notes.pop(path, None)
            return None
        self.note(ok=number)
        return answer

    def words(self):
        return f"call {self.me}.{self.number} " + "w" * self.random.randrange(1, self.random.choice((30, 300, 3000)))

    def put(self, path, text, tool, **arguments):
        data = body(text)
        entry = {"name": path, "size": len(data), "sha": digest(data)}
        answer = self.attempt("replace", tool, lambda answer: answer["file_path"] == path, entry, arguments)
        if answer:
            self.notes[path] = (answer["permalink"], text)

    def do_write(self):
        title = f"Note {self.me} {self.number}"
        text = f"# {title}\n{self.words()}"
        self.put(f"{DIRECTORY}/{title}.md", text, "write_note", title=title, directory=DIRECTORY, content=text)

    def do_replace(self, path):
        if not path.startswith(DIRECTORY):
            return self.do_edit(path)
        title = path.removeprefix(f"{DIRECTORY}/").removesuffix(".md")
        text = f"# {title}\n{self.words()}"
        return self.put(path, text, "write_note", title=title, directory=DIRECTORY, content=text, overwrite=True)

    def do_edit(self, path):
        identifier, text = self.notes[path]
        line = self.words()
        self.put(path, f"{text}\n{line}", "edit_note", identifier=identifier, operation="append", content=f"\n{line}")

    def do_delete(self, path):
        identifier, _ = self.notes[path]
        if self.attempt("delete", "delete_note", lambda answer: answer["deleted"], {"name": path}, {"identifier": identifier}):
            del self.notes[path]

    def do_move(self, path):
        identifier, text = self.notes[path]
        folder = ELSEWHERE if path.startswith(DIRECTORY) else DIRECTORY
        to = f"{folder}/{path.rpartition('/')[2].removesuffix('.md')}-{self.number}.md"
        data = body(text)
        answer = self.attempt("rename", "move_note", lambda answer: answer["moved"] and answer["file_path"] == to,
                              {"name": path, "to": to, "size": len(data), "sha": digest(data)},
                              {"identifier": identifier, "destination_path": to})
        if answer:
            del self.notes[path]
            self.notes[to] = (answer["permalink"], text)

    def do_read(self, path):
        identifier, text = self.notes[path]
        answer = self.call("read_note", identifier=identifier)
        if not answer:
            return
        data = body(answer["content"] or "")
        if data != body(text):
            self.note(misread=path, size=len(data), sha=digest(data))
            del self.notes[path]
