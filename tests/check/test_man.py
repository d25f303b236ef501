"""`tenant-init man`: the page renders without a complaint and has what `--help` has."""

import re
import subprocess

import pytest


@pytest.fixture(scope="module")
def page(binary):
    """The page as a terminal shows it."""
    source = subprocess.run([binary, "man"], capture_output=True, text=True, check=True, timeout=10).stdout
    done = subprocess.run(["groff", "-man", "-Tascii", "-P-c", "-wall", "-rLL=200n"], input=source, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")
    # Bold and underlined letters are overstruck.
    return re.sub(".\b", "", done.stdout)


def help_of(binary, *command):
    return subprocess.run([binary, *command, "--help"], capture_output=True, text=True, check=True, timeout=10).stdout


def section(page, title):
    found = re.search(rf"^{title}\n(.*?)(?=^\S|\Z)", page, re.M | re.S)
    assert found, f"no section {title} in\n{page}"
    return found[1]


def test_each_command_is_there_with_its_options(binary, page):
    commands = re.findall(r"^  ([a-z-]+)  ", help_of(binary).split("Commands:")[1].split("Options:")[0], re.M)
    commands.remove("help")
    assert len(commands) >= 7
    listed = section(page, "COMMANDS")
    for command in commands:
        assert re.search(rf"^ +{command}\b", listed, re.M), command
        part = section(page, f"TENANT-INIT {command.upper()}")
        for option in re.findall(r"--[a-z-]+", help_of(binary, command)):
            assert option in part, f"{command} {option}"
    for hidden in ("supervise", "recover", "probe", "man"):
        assert not re.search(rf"TENANT-INIT {hidden.upper()}\b", page)


def test_each_exit_code_is_there(binary, page):
    codes = re.findall(r"^  (\d+) ", help_of(binary), re.M)
    assert len(codes) >= 9
    status = section(page, "EXIT STATUS")
    for code in codes:
        assert re.search(rf"^ +{code} ", status, re.M), code
    assert "127 not found, 126 not executable" in status
