"""docs/DEPLOY-FLY.md and docs/DEPLOY-DOCKER.md name only what exists, say which commands no test runs, and run the others here."""

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from lib.container import MOUNTING

REPO = Path(__file__).resolve().parents[2]
DOCS = {name: (REPO / "docs" / name).read_text() for name in ("DEPLOY-FLY.md", "DEPLOY-DOCKER.md")}
CONFIG = (REPO / "docs/CONFIG.md").read_text()
FLY = (REPO / "fly.toml").read_text()
RUN_HERE = "Run by `tests/check/test_deploy.py`"
NOT_RUN = {"DEPLOY-FLY.md": "Not run by a test, needs a Fly account", "DEPLOY-DOCKER.md": "Not run by a test, needs a Docker engine"}
# basic-memory lives in the image, not on this machine.
NO_BASIC_MEMORY = {"TENANT_INIT_APP__COMMAND": "sleep infinity"}
each_document = pytest.mark.parametrize("name", DOCS)


def blocks(name):
    """(the line above, the language, the content) of each fenced block."""
    found = re.findall(r"^([^\n]*)\n\n```(\w*)\n(.*?)^```$", DOCS[name], re.M | re.S)
    assert len(found) == DOCS[name].count("```") / 2, f"docs/{name}: a block without a line of text and an empty line above it"
    return found


def prose(name):
    return re.sub(r"^```.*?^```$", "", DOCS[name], flags=re.M | re.S)


def seconds(text):
    number, unit = re.fullmatch(r"(\d+)(s|m)?", str(text)).groups()
    return int(number) * (60 if unit == "m" else 1)


def default_of(key):
    return re.search(rf"^### `{re.escape(key)}`\n.*?^\* Default: `([^`]+)`", CONFIG, re.M | re.S)[1]


@each_document
def test_each_command_is_run_here_or_said_not_to_be(name):
    shell = [(above, content) for above, language, content in blocks(name) if not language]
    assert shell
    for above, content in shell:
        assert above.startswith((RUN_HERE, NOT_RUN[name])), f"docs/{name}: who runs this?\n{content}"


def test_what_is_said_to_be_run_here_works(running_tenant, binary):
    commands = [line for name in DOCS for above, _, content in blocks(name) if above.startswith(RUN_HERE) for line in content.splitlines()]
    assert commands
    folder = running_tenant.folder / "bin"
    folder.mkdir()
    (folder / "tenant-init").symlink_to(binary)
    env = {**running_tenant.env, **NO_BASIC_MEMORY, "PATH": f"{folder}:{running_tenant.env['PATH']}"}
    for command in commands:
        command = command.replace("127.0.0.1:9180", f"127.0.0.1:{running_tenant.health_port}")
        done = subprocess.run(["sh", "-c", command], env=env, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0 and done.stdout, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"


@each_document
def test_names_exist(name, binary):
    text = DOCS[name]
    variables = set(re.findall(r"\b((?:TENANT_INIT|AWS|TURSO|BUCKET)_\w*[A-Z])\b", text))
    assert len(variables) > 5
    known = set(re.findall(r"`([A-Z][A-Z_0-9]+)`", CONFIG)) | set(re.findall(r"^\* Environment: `(\w+)`", CONFIG, re.M))
    assert not variables - known, f"docs/CONFIG.md does not have {sorted(variables - known)}"

    keys = set(re.findall(r"^### `([a-z]+\.[a-z_0-9]+)`", CONFIG, re.M))
    sections = {key.split(".")[0] for key in keys}
    used = {key for key in re.findall(r"`([a-z]+\.[a-z_0-9]+)`", text) if key.split(".")[0] in sections and not key.endswith((".env", ".toml"))}
    assert used and not used - keys, sorted(used - keys)

    targets = set(re.findall(r"^([a-z-]+):", (REPO / "Makefile").read_text(), re.M))
    assert set(re.findall(r"`make ([a-z-]+)", text)) <= targets

    usage = subprocess.run([binary, "--help"], capture_output=True, text=True, check=True, timeout=10).stdout
    commands = set(re.findall(r"(?:^|[`\" ])tenant-init ([a-z][a-z-]*)", "\n".join(re.findall(r"`[^`\n]+`", text) + [b[2] for b in blocks(name)]), re.M))
    assert commands and commands <= set(re.findall(r"^  ([a-z-]+)  ", usage, re.M)), sorted(commands)

    for path in re.findall(r"`((?:ops|tests|docs|scripts)/[\w./-]+|[\w.-]+\.(?:toml|yaml))`", text):
        assert (REPO / path).exists(), f"docs/{name} names {path}"
    for alert in re.findall(r"`(Tenant\w+)`", text):
        assert f"- alert: {alert}\n" in (REPO / "ops/alerts.yml").read_text()


@each_document
def test_links_lead_somewhere(name):
    for target in re.findall(r"\]\((?!http)([^)]+)\)", DOCS[name]):
        file, _, anchor = target.partition("#")
        path = REPO / "docs" / (file or name)
        headings = re.findall(r"^#+ (.*)$", path.read_text(), re.M)
        anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert not anchor or anchor in anchors, f"docs/{name}: {target}"


def test_what_is_said_of_fly_toml_is_in_it():
    """Each `key = value` of the table, and what it says of times that must be in an order."""
    table = re.search(r"^## 2\. fly\.toml\n(.*?)^## ", DOCS["DEPLOY-FLY.md"], re.M | re.S)[1]
    quoted = [span for row in re.findall(r"^\| (`.*?) \|", table, re.M) for span in re.findall(r"`([^`]+)`", row)]
    assert len(quoted) >= 15
    missing = [span for span in quoted if not re.search(rf"^{re.escape(span)}$", FLY, re.M)]
    assert not missing, f"fly.toml does not have {missing}"
    fly = tomllib.loads(FLY)
    stop = seconds(fly["env"]["TENANT_INIT_LIMITS__STOP_TIMEOUT"])
    assert stop < fly["kill_timeout"] <= 300, "the verdict is written before Fly kills, and Fly grants no more"
    assert fly["kill_timeout"] < seconds(fly["deploy"]["wait_timeout"]), "a deploy waits for the drain"
    assert "http_service" not in fly and "services" not in fly, "basic-memory has no authentication"
    runbook = (REPO / "docs/RUNBOOK.md").read_text()
    assert f"kill_timeout = {fly['kill_timeout']} in fly.toml" in runbook and f"`fly.toml` sets {stop} s" in runbook


def test_the_pieces_of_fly_toml_fit_into_it():
    pieces = [tomllib.loads(content) for _, language, content in blocks("DEPLOY-FLY.md") if language == "toml"]
    [volume] = [piece["mounts"] for piece in pieces if "mounts" in piece]
    for key in ("mount.cache_dir", "app.config_dir"):
        assert default_of(key).startswith(volume["destination"] + "/"), f"the volume does not hold {key}"
    # A table of the same name twice would be an error of TOML: what is said to be added may not be there yet.
    assert "mounts" not in tomllib.loads(FLY)
    for piece in pieces:
        assert not set(piece.get("env", ())) & set(tomllib.loads(FLY)["env"])


def test_docker_and_compose_get_what_the_tests_give():
    [run] = [content for _, _, content in blocks("DEPLOY-DOCKER.md") if content.startswith("docker run")]
    compose = (REPO / "compose.yaml").read_text()
    for option, value in zip(MOUNTING[::2], MOUNTING[1::2]):
        assert f"{option} {value}" in run and f"`{option} {value}`" in DOCS["DEPLOY-DOCKER.md"]
        assert value in compose
    grace = int(re.search(r"--stop-timeout (\d+)", run)[1])
    assert grace > seconds(default_of("limits.stop_timeout"))
    assert seconds(re.search(r"stop_grace_period: (\w+)", compose)[1]) == grace
    for mounted in re.findall(r"--volume \w+:(\S+)", run):
        assert default_of("mount.cache_dir").startswith(mounted + "/")


def test_the_file_of_settings_is_understood(running_tenant, binary, tmp_path):
    """With these names and this machine's places a start would find its configuration right."""
    [settings] = [content for _, language, content in blocks("DEPLOY-DOCKER.md") if language == "env"]
    pairs = dict(line.split("=", 1) for line in settings.splitlines())
    env = {**running_tenant.env, **NO_BASIC_MEMORY, **pairs, **{key: running_tenant.env[key] for key in pairs if key in running_tenant.env}}
    env.update(TURSO_DATABASE_URL="libsql://127.0.0.1:1?tls=0", TURSO_AUTH_TOKEN="token")
    done = subprocess.run([binary, "check"], env=env, capture_output=True, text=True, timeout=60, cwd=os.fspath(tmp_path))
    assert done.returncode == 69 and "database" in done.stdout, f"only the database is missing: {done.stdout}{done.stderr}"
