"""What can happen to the database of an `IndexedTenant` or to the way there: `with outage(tenant): …`, then all is well again."""

from contextlib import contextmanager


@contextmanager
def refused(tenant):
    tenant.proxy.refuse()
    try:
        yield
    finally:
        tenant.proxy.ok()


@contextmanager
def silent(tenant):
    tenant.proxy.silent()
    try:
        yield
    finally:
        tenant.proxy.ok()


@contextmanager
def stuck(tenant):
    """The server itself stops and answers late what it was asked."""
    tenant.sqld.suspend()
    try:
        yield
    finally:
        tenant.sqld.resume()


@contextmanager
def killed(tenant):
    """The way is there, and nobody at its end."""
    tenant.sqld.kill()
    try:
        yield
    finally:
        tenant.sqld.start()


@contextmanager
def token_revoked(tenant):
    tenant.sqld.revoke()
    try:
        yield
    finally:
        tenant.sqld.restore_keys()


def status(code, headers=()):
    """Something before the server answers in its place."""

    @contextmanager
    def answering(tenant):
        tenant.proxy.status(code, headers=headers)
        try:
            yield
        finally:
            tenant.proxy.ok()

    answering.__name__ = f"status_{code}"
    return answering


# As a service says that it was asked too often; the header is what it would like.
too_many_requests = status(429, headers=[("Retry-After", "1")])

OUTAGES = [refused, silent, stuck, killed, status(500), status(503), too_many_requests]


def named(fault):
    """For `ids=` of a parametrised test."""
    return getattr(fault, "__name__", str(fault))
