"""An interpreter that is started early: it loads libraries, runs nothing of the program, and waits for the word."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from lib.wait import wait_until

PACKAGE = Path(__file__).resolve().parents[2] / "adapter/src/tenant_index"
PROGRAM = "import pathlib, sys; pathlib.Path('ran').write_text(sys.stdin.read() + ('library' in sys.modules and 'warm' or 'cold'))"


@pytest.fixture
def place(tmp_path):
    """The adapter with a list of modules, a library that leaves a mark when it is loaded, and the program's own module."""
    shutil.copytree(PACKAGE, tmp_path / "tenant_index", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "tenant_index/modules.txt").write_text("not_there\nbroken\nlibrary\n")
    (tmp_path / "library.py").write_text("import pathlib, warnings; warnings.warn('noise'); pathlib.Path('loaded').touch()\n")
    (tmp_path / "broken.py").write_text("raise RuntimeError('alone it cannot be loaded')\n")
    (tmp_path / "program.py").write_text("import library, program_settings\n")
    (tmp_path / "program_settings.py").write_text("")
    return tmp_path


def start(place, **env):
    return subprocess.Popen([sys.executable, "-c", f"import tenant_index.autoload; {PROGRAM}"], cwd=place, stdin=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(place), **env})


def test_it_loads_and_waits_and_goes_on_with_an_empty_stdin(place):
    program = start(place, TENANT_INIT_WAIT="stdin")
    wait_until((place / "loaded").exists, 20, "the library is loaded")
    assert program.poll() is None and not (place / "ran").exists()
    # What comes after the word is not for the program.
    _, said = program.communicate("1more", timeout=20)
    assert (program.returncode, said) == (0, "")
    assert (place / "ran").read_text() == "warm"


@pytest.mark.parametrize("word", ["", "0"])
def test_without_the_word_nothing_of_the_program_runs(place, word):
    program = start(place, TENANT_INIT_WAIT="stdin")
    program.communicate(word, timeout=20)
    assert program.returncode == 75
    assert (place / "loaded").exists() and not (place / "ran").exists()


def test_nobody_waits_who_was_not_asked_to(place):
    program = start(place)
    program.communicate("", timeout=20)
    assert program.returncode == 0
    assert (place / "ran").read_text() == "cold"


def test_without_a_list_it_only_waits(place):
    (place / "tenant_index/modules.txt").unlink()
    program = start(place, TENANT_INIT_WAIT="stdin")
    program.communicate("1", timeout=20)
    assert (place / "ran").read_text() == "cold"


def test_the_list_has_what_the_program_loads_and_nothing_of_its_own(place):
    made = subprocess.run([sys.executable, "-m", "tenant_index.warm", "program", "program", "colorsys"], cwd=place, capture_output=True,
                          text=True, check=True, env={**os.environ, "PYTHONPATH": str(place)})
    names = made.stdout.split()
    assert {"library", "program_settings", "colorsys"} <= set(names)
    assert not {name for name in names if name.partition(".")[0] in ("program", "tenant_index", "__main__")}
