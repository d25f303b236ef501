"""Imported by tenant_index.pth when the interpreter starts; no program needs to know of the adapter."""

from .connect import install
from .warm import wait

install()
wait()
