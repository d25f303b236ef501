"""ops/alerts.yml, ops/grafana.json and docs/METRICS.md speak of series that a real tenant has; promtool agrees with the rules."""

import json
import os
import re
import subprocess
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics

from lib.wait import wait_until

REPO = Path(__file__).resolve().parents[2]
OPS = REPO / "ops"
ALERTS = (OPS / "alerts.yml").read_text()
DASHBOARD = json.loads((OPS / "grafana.json").read_text())
METRICS = (REPO / "docs/METRICS.md").read_text()
RULES = dict(re.findall(r"^      - alert: (\w+)\n((?:        .*\n)+)", ALERTS, re.M))
# What a bare name of a family becomes in a query.
SUFFIXES = ("_bucket", "_count", "_sum")


@pytest.fixture(scope="module")
def promtool():
    """Runs promtool; returns what it said, and fails when it is not content."""
    path = os.environ.get("PROMTOOL") or subprocess.run(
        [REPO / "scripts/fetch-promtool.sh"], capture_output=True, text=True, check=True).stdout.strip()

    def run(*arguments, text=None):
        done = subprocess.run([path, *arguments], input=text, capture_output=True, text=True, cwd=OPS, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


def queries(board):
    """Every query of the dashboard: of its panels and of its variables."""
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["query"]["query"]


def names(text):
    """Names of our metrics; a word behind a dot or a slash is something else."""
    return set(re.findall(r"(?<![\w./-])tenant_[a-z_]+[a-z]", text))


def without_comments(text):
    return re.sub(r"^ *#.*$", "", text, flags=re.M)


def test_every_rule_says_how_bad_it_is_and_where_to_read():
    assert len(RULES) == ALERTS.count("- alert:") >= 15
    runbook = (REPO / "docs/RUNBOOK.md").read_text()
    anchors = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^#+ (.*)$", runbook, re.M)}
    for name, body in RULES.items():
        assert re.search(r"^          severity: (critical|warning)$", body, re.M), name
        assert re.search(r"^          summary: \w", body, re.M), name
        [anchor] = re.findall(r"^          runbook: docs/RUNBOOK.md#(\S+)$", body, re.M) or [None]
        assert anchor in anchors, f"{name}: docs/RUNBOOK.md has no {anchor}"


def test_each_rule_fires_when_it_should_and_is_silent_on_a_healthy_tenant(promtool):
    tests = (OPS / "alerts.test.yml").read_text()
    healthy, *others = re.split(r"^  - name: ", tests.split("\ntests:\n")[1], flags=re.M)[1:]
    for rule in RULES:
        assert f"alertname: {rule} " in healthy, f"nothing shows that {rule} stays silent"
        assert any(f"alertname: {rule}\n        exp_alerts:" in other for other in others), f"nothing shows that {rule} fires"
    promtool("check", "rules", "alerts.yml")
    promtool("test", "rules", "alerts.test.yml")


def test_the_dashboard_can_be_imported(promtool, tmp_path):
    """As far as it can be told without a Grafana: its parts are complete, its queries are ones that Prometheus understands."""
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert place["x"] + place["w"] <= 24 and not cells & taken, f"{panel['title']} lies on another panel"
        taken |= cells
        for part in (panel, *panel.get("targets", ())) if panel["type"] != "row" else ():
            assert part["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, panel["title"]
    assert [v["name"] for v in DASHBOARD["templating"]["list"]] == ["datasource", "instance"]
    rules = []
    for number, (title, query) in enumerate(queries(DASHBOARD)):
        query = query.replace("$__rate_interval", "5m").replace("$instance", ".*")
        if not query.startswith("label_values("):
            rules.append({"record": f"query:{number}", "expr": query})
    assert len(rules) >= 20
    # JSON is YAML.
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", str(tmp_path / "rules.yml"))


def test_every_metric_that_is_named_exists(running_tenant):
    (running_tenant.mount / "a.md").write_text("text")
    wait_until(lambda: running_tenant.metric("tenant_uploads_queued") == 0)
    wait_until(lambda: running_tenant.metric("tenant_storage_probe_seconds") > 0)
    wait_until(lambda: running_tenant.metric("tenant_cache_room_bytes") > 0)
    _, text = running_tenant.get("/metrics")
    known, with_sample = set(), set()
    for family in openmetrics(text):
        name = family.name + ("_total" if family.type == "counter" else "")
        known.add(name)
        if family.type == "histogram":
            known |= {name + suffix for suffix in SUFFIXES}
        if family.samples:
            with_sample.add(name)
    asked = names(without_comments(ALERTS)) | names((OPS / "alerts.test.yml").read_text())
    asked |= {name for _, query in queries(DASHBOARD) for name in names(query)}
    assert len(asked) >= 20
    assert not asked - known, f"ops/ asks for what a tenant does not have: {sorted(asked - known)}"
    documented = set(re.findall(r"^\| `(tenant_\w+)", METRICS, re.M))
    families = {name for name in known if not name.endswith(SUFFIXES)}
    assert documented == families, f"docs/METRICS.md: {sorted(documented ^ families)}"
    # What has no sample yet is said to come later.
    later = names(re.search(r"^## Samples that come later\n(.*?)^## ", METRICS, re.M | re.S)[1])
    assert families - with_sample <= later, sorted(families - with_sample - later)
    # Labels of the rules and of the dashboard are those of the samples.
    labels = {label for family in openmetrics(text) for sample in family.samples for label in sample.labels}
    used = set(re.findall(r"(\w+)=~?\"", "".join(query for _, query in queries(DASHBOARD)) + without_comments(ALERTS)))
    assert used <= labels | {"instance", "service", "cause", "error"}, sorted(used)


def test_promtool_accepts_the_page(running_tenant, promtool):
    """In the format that promtool reads."""
    ask = urllib.request.Request(running_tenant.url("/metrics"), headers={"Accept": "text/plain;version=0.0.4"})
    text = urllib.request.urlopen(ask, timeout=10).read().decode()
    promtool("check", "metrics", text=text)
