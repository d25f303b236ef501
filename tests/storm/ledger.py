"""What may be in the bucket, given the ledger of a writer: everything acknowledged, and of what was cut short either side.

A file has a set of states it may be in. An acknowledged operation leaves one; one that failed or was cut short adds what it may have
done. A look at the file narrows the set again, and is itself checked: whatever a later life of the tenant shows must be allowed.
"""

import json
from collections import Counter
from dataclasses import dataclass, field

from .writer import digest

ABSENT = ("absent",)


def whole(size, sha):
    return ("whole", size, sha)


def begun(known):
    """A new file that may have been cut in the middle (`known` is None), or a known one with a part of a line more."""
    return ("begun", *(known or (0, digest(b""))))


def matches(state, data):
    """Is `data` (bytes, or None for no file) this state?"""
    if state == ABSENT:
        return data is None
    if data is None:
        return False
    kind, size, sha = state
    if kind == "whole":
        return len(data) == size and digest(data) == sha
    return len(data) >= size and digest(data[:size]) == sha


@dataclass
class Story:
    """All that the ledger tells."""

    may_be: dict = field(default_factory=dict)  # name: set of states
    past: dict = field(default_factory=dict)  # name: every content that was acknowledged under it
    # Renames that were cut short: (from, to, state of the file); it must be in one of the two.
    moving: list = field(default_factory=list)
    moved: dict = field(default_factory=dict)  # name before an acknowledged rename: when that began
    wrong: list = field(default_factory=list)  # what a reader saw that no one had written, in words
    acknowledged: int = 0
    errors: Counter = field(default_factory=Counter)

    def states(self, name):
        return self.may_be.setdefault(name, {ABSENT})

    def settle(self, name, states):
        self.may_be[name] = set(states)
        self.moving = [move for move in self.moving if name not in move[:2]]

    def seen(self, name, size, sha, line):
        """A reader saw this. Exact states only: of a file that was cut in the middle anything is right."""
        found = ABSENT if size is None else whole(size, sha)
        states = self.states(name)
        loose = any(state[0] == "begun" for state in states)
        if found not in states and not (loose and found != ABSENT):
            self.wrong.append(f"{name}: seen as {found}, which nobody wrote; allowed were {sorted(states, key=str)} (ledger line {line})")
        moves = [move for move in self.moving if name in move[:2]]
        self.may_be[name] = {found}
        for move in moves:
            if found == move[2]:
                self.moving.remove(move)


def read(lines, fuse=False):
    """The story that a ledger's lines tell.

    `fuse`: there rclone shows the target's content under both names between a rename over it that failed and the end of that
    mount, some milliseconds later (docs/SEMANTICS.md, "Not yet"). A look in that moment tells nothing."""
    story, open_ = Story(), {}
    mistaken = {}  # source of such a rename: its target
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # the machine ended in the middle of the line: before the operation, or after it and unheard
        if "look" in entry:
            for begin in open_.values():
                _may_have_happened(story, begin)
            open_.clear()
            mistaken.clear()
        elif "begin" in entry:
            open_[entry["begin"]] = entry
        elif "ok" in entry:
            story.acknowledged += 1
            _happened(story, open_.pop(entry["ok"]))
        elif "code" in entry:
            story.errors[entry["code"]] += 1
            begin = open_.pop(entry["error"])
            _may_have_happened(story, begin)
            if fuse and begin["op"] == "rename":
                mistaken[begin["name"]] = begin["to"]
        elif "refused" in entry:
            open_.pop(entry["refused"])  # there was nobody who could have heard it
        elif "misread" in entry:
            story.wrong.append(f"{entry['misread']}: read as {entry['size']} bytes {entry['sha']}, which is not what was acknowledged (ledger line {number})")
        elif mistaken.get(entry.get("seen")) in story.may_be and whole(entry["size"], entry["sha"]) in story.states(mistaken[entry["seen"]]):
            continue
        elif "seen" in entry:
            story.seen(entry["seen"], entry["size"], entry["sha"], number)
        elif "wrong" in entry:
            story.wrong.append(f"{entry['wrong']}: read back as {entry['size']} bytes {entry['sha']} after it was acknowledged (ledger line {number})")
            story.seen(entry["wrong"], entry["size"], entry["sha"], number)
        elif "unreadable" in entry:
            story.errors[f"read {entry['error']}"] += 1
    for begin in open_.values():
        _may_have_happened(story, begin)
    return story


def _happened(story, entry):
    name = entry["name"]
    if "sha" in entry:
        story.past.setdefault(entry.get("to", name), set()).add(whole(entry["size"], entry["sha"]))
    match entry["op"]:
        case "rename":
            story.settle(entry["to"], {whole(entry["size"], entry["sha"])})
            story.settle(name, {ABSENT})
            story.moved[name] = entry["t"]
        case "delete":
            story.settle(name, {ABSENT})
        case _:
            story.settle(name, {whole(entry["size"], entry["sha"])})


def _may_have_happened(story, entry):
    name = entry["name"]
    # What the bucket had under the name when the cache had something newer: docs/SEMANTICS.md, "Not yet".
    older = story.past.get(name, set())
    match entry["op"]:
        case "rename":
            moved = whole(entry["size"], entry["sha"])
            story.states(name).update({ABSENT} | older)
            story.states(entry["to"]).update({moved} | older)
            story.moving.append((name, entry["to"], moved))
        case "delete":
            story.states(name).update({ABSENT} | older)
        case "replace":
            story.states(name).add(whole(entry["size"], entry["sha"]))
        case "write":
            story.states(name).add(begun(None))
        case "append":
            for state in list(story.states(name)):
                if state[0] == "whole" and state[1] == entry["before"]:
                    story.states(name).add(begun(state[1:]))
            story.states(name).add(whole(entry["size"], entry["sha"]))


def differences(story, contents):
    """What is not as it must be, in words. `contents` gives the bytes of a name in the bucket, or None."""
    found = list(story.wrong)
    for name, states in sorted(story.may_be.items()):
        data = contents(name)
        if not any(matches(state, data) for state in states):
            shown = "absent" if data is None else f"{len(data)} bytes {digest(data)}"
            found.append(f"{name}: the bucket has it as {shown}; allowed are {sorted(states, key=str)}")
    for source, target, state in story.moving:
        if not any(matches(state, contents(name)) for name in (source, target)):
            found.append(f"{source} was being renamed to {target} and is in neither place")
    return found
