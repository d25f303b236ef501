"""Loads what the program will need while tenant-init still prepares the tenant, then waits for tenant-init's word.

With `TENANT_INIT_WAIT=stdin` in the environment the interpreter imports the modules listed in `modules.txt`, which are those of the
program's libraries and none of its own, and reads one byte from its stdin before the first line of the program runs. The byte
`1` means that files and index are there; the end of the pipe, that there will be no start.

`modules.txt` is made when the image is built (`python -m tenant_index.warm PROGRAM MODULE… > modules.txt`): the names of everything that
importing MODULE… loads, in that order, without PROGRAM's own modules: those may look at files while they are loaded.
"""

import contextlib
import importlib
import os
import sys
import warnings

VARIABLE = "TENANT_INIT_WAIT"
LIST = os.path.join(os.path.dirname(__file__), "modules.txt")
GO = b"1"
CALLED_OFF = 75  # EX_TEMPFAIL: nothing was wrong


def wait() -> None:
    """Returns when the program may run; at once where nobody asks for a wait."""
    if os.environ.pop(VARIABLE, None) != "stdin":
        return
    load(LIST)
    if os.read(0, 1) != GO:
        os._exit(CALLED_OFF)
    # From here on stdin is what it is in every other start.
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)


def load(path: str) -> None:
    """A module that cannot be loaded alone is loaded, or missed, by the program itself."""
    try:
        with open(path, encoding="utf-8") as file:
            names = file.read().split()
    except OSError:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in names:
            with contextlib.suppress(Exception):
                importlib.import_module(name)


def listing(program: str, roots: list[str]) -> list[str]:
    """Names of everything that importing `roots` loads, without what is there anyway and without `program`'s own modules."""
    known = set(sys.modules)
    for root in roots:
        importlib.import_module(root)
    own = {program, __package__}
    return [name for name in list(sys.modules) if name not in known and name.partition(".")[0] not in own and not name.startswith("__")]


if __name__ == "__main__":
    print("\n".join(listing(sys.argv[1], sys.argv[2:])))
