"""The seed of the storms in `make test`: always the same one, until 200 random ones in a row have found nothing.

TENANT_STORM_SEED takes another one, `random` a new one each time.
"""

import os
import secrets

import pytest


def seeds():
    """For `pytest.mark.parametrize("seed", seeds())`."""
    given = os.environ.get("TENANT_STORM_SEED", "fixed")
    if given == "random":
        return [pytest.param(secrets.token_hex(4), id="random")]
    return [pytest.param(given, id="fixed" if given == "fixed" else "given")]


def said(seed, where):
    """Prints how to repeat a storm, before it begins: one that hangs is wanted most."""
    print(f"storm by seed {seed}; again: make storm STORM_WHERE={where} SEED={seed}", flush=True)
