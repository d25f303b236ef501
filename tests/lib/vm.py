"""Boots the tests' virtual machine (scripts/vm-run.sh) and reads what its script reported."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]


@dataclass
class VmRun:
    """One boot. `code` is the script's exit code (124 time is up, 125 no machine), `pid1_code` PID 1's with `pid1`."""

    code: int
    pid1_code: int | None
    results: list
    console: str

    def of(self, event):
        """All results of this kind, in order."""
        return [r for r in self.results if r["event"] == event]

    def one(self, event):
        """The only result of this kind."""
        found = self.of(event)
        assert len(found) == 1, f"{len(found)} results {event!r}; the machine's console ends:\n{self.console[-3000:]}"
        return found[0]

    def checked(self):
        """The run itself, when its script ended with 0."""
        assert self.code == 0, f"the script in the machine ended with {self.code}:\n{self.console[-6000:]}"
        return self


def boot(folder, script, *arguments, env=None, pid1=False, timeout=300, disk=None):
    """Runs tests/vm/guest/`script` in a fresh machine. `disk` is a file: its disk, kept."""
    folder = Path(folder)
    argv = [REPO / "scripts/vm-run.sh", "--out", folder, "--timeout", str(timeout)]
    argv += ["--pid1"] if pid1 else []
    argv += ["--disk", disk] if disk else []
    for name, value in (env or {}).items():
        argv += ["--env", f"{name}={value}"]
    argv += [REPO / "tests/vm/guest" / script, *arguments]
    # The script has its own deadline; this one only guards against the script.
    done = subprocess.run([str(a) for a in argv], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          errors="replace", timeout=timeout + 120)
    console = folder / "console.log"
    results = folder / "results.jsonl"
    pid1_code = folder / "pid1-exit-code"
    return VmRun(
        done.returncode,
        int(pid1_code.read_text()) if pid1_code.exists() else None,
        [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else [],
        console.read_text(errors="replace") if console.exists() else done.stderr,
    )
