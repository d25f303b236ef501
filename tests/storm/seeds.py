"""The seeds of the storms in `make test`: always the same one, and where it is asked for one that is new each time.

TENANT_STORM_SEED takes another one instead of both, `random` a new one.
"""

import os
import secrets

import pytest


def seeds(new=False):
    """For `pytest.mark.parametrize("seed", seeds())`. `new`: besides the fixed seed one that nobody has tried."""
    given = os.environ.get("TENANT_STORM_SEED")
    fixed, random = pytest.param("fixed", id="fixed"), pytest.param(secrets.token_hex(4), id="random")
    if given is None:
        return [fixed, random] if new else [fixed]
    return [random] if given == "random" else [pytest.param(given, id="given")]


def said(seed, where):
    """Prints how to repeat a storm, before it begins: one that hangs is wanted most."""
    print(f"storm by seed {seed}; again: make storm STORM_WHERE={where} SEED={seed}", flush=True)
