"""Local mounts; whatever is left of one is gone when its test ends."""

import subprocess

import pytest

from lib.local import NOBODY, LocalMount
from lib.mounts import detach_below


@pytest.fixture
def make_mount(tmp_path, binary):
    """Makes local mounts, not started; `name` is the home: use it again for the next life on it. Of an ordinary user unless
    `user` is None."""
    # See lib.local.OPEN_FUSE.
    for how in (["--bind", tmp_path, tmp_path], ["--make-shared", tmp_path]):
        subprocess.run(["mount", *how], check=True)
    made = []

    def make(s3, name="home", user=NOBODY, **kwargs):
        made.append(LocalMount(tmp_path / name, s3, user=user, program=binary, **kwargs))
        return made[-1]

    yield make
    for one in made:
        one.clean_up()
    detach_below(tmp_path)
