"""The seeds of the storms in `make test`: one that is always the same, and one that is new each time."""

import os
import secrets

import pytest


def seeds():
    """For `pytest.mark.parametrize("seed", seeds())`. TENANT_STORM_SEED repeats one."""
    given = os.environ.get("TENANT_STORM_SEED")
    if given:
        return [pytest.param(given, id="given")]
    return [pytest.param("fixed", id="fixed"), pytest.param(secrets.token_hex(4), id="random")]


def said(seed, where):
    """Prints how to repeat a storm, before it begins: one that hangs is wanted most."""
    print(f"storm by seed {seed}; again: make storm STORM_WHERE={where} SEED={seed}", flush=True)
