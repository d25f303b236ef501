"""The seeds of the storms in `make test`: one that is always the same, and one that is new each time."""

import os
import secrets


def seeds():
    """For `pytest.mark.parametrize("seed", …)`. TENANT_STORM_SEED repeats one."""
    given = os.environ.get("TENANT_STORM_SEED")
    return [given] if given else ["fixed", secrets.token_hex(4)]


def said(seed, again):
    """Prints how to repeat a storm, before it begins: the test that hangs is the one that matters."""
    print(f"storm by seed {seed}; again: TENANT_STORM_SEED={seed} {again}", flush=True)
