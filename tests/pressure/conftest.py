"""A disk of its own for the cache: small, and gone after the test."""

import subprocess

import pytest


@pytest.fixture
def small_disk(tmp_path):
    """Makes a tmpfs of so many MiB."""
    made = []

    def make(mebibytes, name="disk"):
        folder = tmp_path / name
        folder.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", folder], check=True)
        made.append(folder)
        return folder

    yield make
    for folder in made:
        subprocess.run(["umount", "-l", folder], check=True)
