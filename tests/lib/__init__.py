"""The real parts that tests start: S3 and libSQL servers, tenants, containers, virtual machines.

Python's standard library only (3.11 and later): the same modules drive tenants on this machine and inside the tests'
virtual machine, whose root is the tenant image.
"""
