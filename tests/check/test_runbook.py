"""docs/RUNBOOK.md is complete and true to the sources: exit codes, reasons, log events with their levels, metrics, keys, links.

Only text is read. What is looked for has few shapes in the sources; where one of these tests does not understand what it finds
there, it fails and says so, instead of missing a name.
"""

import re
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
RUNBOOK = (REPO / "docs/RUNBOOK.md").read_text()
LEVELS = {"error", "warn", "info", "debug", "trace"}


def code_of(path):
    """A source file without comments and without its tests."""
    text = path.read_text().split("#[cfg(test)]\nmod tests {")[0]
    return "\n".join("" if line.lstrip().startswith("//") else line for line in text.splitlines())


SOURCES = {
    path.relative_to(REPO).as_posix(): code_of(path)
    for path in sorted((REPO / "src").rglob("*.rs"))
    if path.name != "tests.rs" and "tests" not in path.parts[len(REPO.parts):]
}
EVERYTHING = "\n".join(SOURCES.values())


def section(title):
    """What stands below a heading of the second level, tables of other headings excluded."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", RUNBOOK, re.M | re.S)
    assert found, f"docs/RUNBOOK.md has no section '## {title}'"
    return found[1]


def tables(text):
    """Each table as (cells of its head, rows of cells)."""
    found = []
    for block in re.findall(r"(?:^\|.*\n)+", text, re.M):
        rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in block.splitlines()]
        widths = {len(row) for row in rows}
        assert len(widths) == 1, f"a row of this table has another number of cells: {block[:200]}"
        found.append((rows[0], rows[2:]))
    return found


def rows_of(title, first):
    """The rows of all tables in a section whose first column is called `first`."""
    rows = [row for head, rows in tables(section(title)) if head[0] == first for row in rows]
    assert rows, f"'## {title}' has no table whose first column is '{first}'"
    return rows


def names_in(cell):
    return re.findall(r"`([^`]+)`", cell)


def the_same(what, documented, found):
    missing, invented = ", ".join(sorted(found - documented)), ", ".join(sorted(documented - found))
    wrong = [f"{what} that docs/RUNBOOK.md does not name: {missing}"] if missing else []
    wrong += [f"{what} in docs/RUNBOOK.md that the sources do not have: {invented}"] if invented else []
    assert not wrong, "\n".join(wrong)


def no_twins(names):
    twins = sorted({name for name in names if names.count(name) > 1})
    assert not twins, f"more than one row of docs/RUNBOOK.md is about {', '.join(twins)}"


# -- exit codes --


def test_every_exit_code_has_its_row_and_no_other():
    codes = set(re.findall(r"Exit::\w+ => (\d+),", SOURCES["src/exit.rs"]))
    assert len(codes) >= 9, f"src/exit.rs is not understood: {sorted(codes)}"
    # Of the guardian, when it cannot start anything (src/init/launch.rs).
    codes |= {"126", "127"}
    cells = [row[0] for row in rows_of("Exit codes", "code")]
    # Those of no fixed number: 128 + signal, and the app's own.
    without_number = [cell for cell in cells if "128 + signal" in cell or "any other" in cell]
    assert len(without_number) == 2, cells
    numbers = [number for cell in cells if cell not in without_number for number in re.findall(r"\d+", cell)]
    no_twins(numbers)
    the_same("exit codes", set(numbers), codes)


def test_every_subcommand_that_people_run_has_its_codes():
    body = re.search(r"enum Command \{(.*?)^\}", SOURCES["src/cli.rs"], re.S | re.M)[1]
    commands, hidden = set(), False
    for line in body.splitlines():
        if "hide = true" in line:
            hidden = True
        elif found := re.match(r"    ([A-Z]\w+)", line):
            if not hidden:
                commands.add(re.sub(r"(?<!^)([A-Z])", r"-\1", found[1]).lower())
            hidden = False
    # `run` has the table above; `recover` is hidden, and yet what its codes are is asked.
    documented = {names_in(row[0])[0].split()[0] for row in rows_of("Exit codes", "command")}
    the_same("subcommands", documented, commands - {"run"} | {"recover"})


# -- reasons --


def body_of(code, name):
    """The body of `fn name` in a formatted source, with its signature; None when it is not there."""
    found = re.search(rf"^( *)(?:pub(?:\([^)]*\))? )?fn {name}\((.*?)^\1\}}", code, re.M | re.S)
    return found and found[2]


def reasons():
    """Names of all reasons: the `name: words` that are made in `State::reasons` and in what it calls for them."""
    core = {path: code for path, code in SOURCES.items() if path.startswith("src/core/")}
    found, seen, todo, inside = set(), set(), ["reasons"], 0
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        bodies = [body for code in core.values() if (body := body_of(code, name))]
        assert len(bodies) == 1, f"{len(bodies)} functions called {name} in src/core; this test expects one"
        [body] = bodies
        inside += len(re.findall(r"(?:reasons|words)\.push\(", body))
        # The first word of each text that is pushed or formatted: `name: …`.
        found |= set(re.findall(r'"([a-z][a-z_]*): ', body))
        for called in re.findall(r"self\.(\w+)\(", body):
            signature = re.search(rf"fn {called}\([^)]*\)\s*-> (Vec<String>|Option<String>) \{{", "\n".join(core.values()))
            if signature:
                todo.append(called)
    pushed = sum(len(re.findall(r"reasons\.push\(", code)) for code in core.values())
    assert inside >= pushed, f"somebody pushes reasons outside of {', '.join(sorted(seen))}: teach this test"
    assert len(found) >= 20, f"only these reasons were found in src/core: {sorted(found)}"
    return found


def test_every_reason_has_its_row_and_no_other():
    documented = [name for row in rows_of("Reasons", "reason") for name in names_in(row[0])]
    no_twins(documented)
    the_same("reasons", set(documented), reasons())


# -- log events --


def events():
    """Name → levels of all events of the log."""
    found = {}

    def add(name, level):
        found.setdefault(name, set()).update({level} & LEVELS)

    for path, code in SOURCES.items():
        macros = re.findall(r'(\w+)!\(\s*(?:target: [^,]+,\s*)?event = "(\w+)"', code)
        assert len(macros) == code.count('event = "'), f"{path}: an event that is not the first field of its macro: teach this test"
        for level, name in macros:
            add(name, level)
        # `Action::Say(Level::Warn, "name", words)`; a level that is a variable is one of the others of its name.
        said = re.findall(r'Action::Say\(\s*(?:\w+::)?(\w+),\s*"(\w+)"', code)
        others = code.count("Action::Say(") - len(re.findall(r"Action::Say\((?:level, event, words|\.\.)\)", code))
        assert len(said) == others, f"{path}: a Say whose event is not a literal: teach this test"
        for level, name in said:
            add(name, level.lower())
        for level, name in re.findall(r'Line::ours\(\s*Level::(\w+),\s*"(\w+)"', code):
            add(name, level.lower())
        # A name in a variable: `say` of the loop gets what core says, and the index tells how it was opened.
        variable = set(re.findall(r"(\w+)!\(\s*event,", code))
        if path == "src/supervise/indexing.rs":
            names = re.findall(r'How::\w+(?:\([^)]*\)| \{[^}]*\})? => \(\s*"(\w+)",', code)
            assert len(names) == code.count("How::") > 0, f"{path}: `described` is not understood: teach this test"
            for name in names:
                for level in variable:
                    add(name, level)
        else:
            assert not variable or path == "src/supervise.rs", f"{path}: the name of an event is a variable: teach this test"
    assert len(found) >= 60, f"only these events were found: {sorted(found)}"
    return found


def documented_events():
    """(name, levels, the whole row) of each event in the runbook."""
    for row in rows_of("Log events", "event"):
        names = names_in(row[0])
        assert names, f"a row of the events without a name: {row}"
        for name in names:
            yield name, set(re.findall(r"\w+", row[1])), row


def test_every_event_has_its_row_and_no_other():
    documented = [name for name, _, _ in documented_events()]
    no_twins(documented)
    the_same("events", set(documented), set(events()))


def test_the_levels_of_events_are_those_of_the_sources():
    found, wrong = events(), []
    rows = {}
    for name, levels, row in documented_events():
        rows.setdefault(tuple(row), []).append((name, levels))
    for row, named in rows.items():
        said = named[0][1]
        true = set().union(*(found.get(name, set()) for name, _ in named))
        # A name that is not there at all is the other test's.
        if true and said != true:
            wrong.append(f"{row[0]}: {', '.join(sorted(said))} in docs/RUNBOOK.md, {', '.join(sorted(true))} in src")
    assert not wrong, "\n".join(wrong)


def test_the_words_of_lines_without_an_event_are_those_of_the_sources():
    gone = [row[0] for row in rows_of("Log events", "words") if row[0].strip('"') not in EVERYTHING]
    assert not gone, f"docs/RUNBOOK.md quotes lines that src does not print: {gone}"


# -- everything else that can be looked up --


def test_metrics_are_those_of_the_reference():
    known = set(re.findall(r"`(tenant_\w+)", (REPO / "docs/METRICS.md").read_text()))
    unknown = sorted(set(re.findall(r"`(tenant_\w+)", RUNBOOK)) - known)
    assert not unknown, f"docs/METRICS.md does not have {', '.join(unknown)}"


def test_keys_of_the_configuration_are_those_of_the_reference():
    text = (REPO / "docs/CONFIG.md").read_text()
    known = set(re.findall(r"^### `([a-z]+\.[a-z_0-9]+)`", text, re.M))
    sections = {key.split(".")[0] for key in known}
    used = {key for key in re.findall(r"`([a-z]+\.[a-z_0-9]+)(?: = [^`]*)?`", RUNBOOK) if key.split(".")[0] in sections}
    assert len(used) > 15, sorted(used)
    # A file's name can look like a key.
    unknown = sorted(key for key in used - known if not key.endswith((".md", ".toml", ".yaml", ".db", ".jsonl", ".json")))
    assert not unknown, f"docs/CONFIG.md does not have {', '.join(unknown)}"


def test_names_in_the_prose_exist():
    """Whatever looks like a name of ours (`two_words`) is one: a reason, an event, a field, a key."""
    code = re.sub(r"```.*?```", "", RUNBOOK, flags=re.S)
    named = {name for name in re.findall(r"`([a-z]+(?:_[a-z]+)+)`", code) if not name.startswith("tenant_")}
    words = set(re.findall(r"\w+", EVERYTHING + (REPO / "fly.toml").read_text() + (REPO / "compose.yaml").read_text()))
    unknown = sorted(named - words)
    assert not unknown, f"docs/RUNBOOK.md names what src does not have: {', '.join(unknown)}"


def anchors(text):
    """The anchors of all headings, as they are made on the web page of a repository."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.S), re.M)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


def test_links_lead_somewhere():
    no_twins(anchors(RUNBOOK))
    broken = []
    for target in re.findall(r"\]\(([^)]+)\)", RUNBOOK):
        file, _, anchor = target.partition("#")
        path = REPO / "docs" / file if file else REPO / "docs/RUNBOOK.md"
        if not path.exists() or (anchor and anchor not in anchors(path.read_text())):
            broken.append(target)
    assert not broken, f"links of docs/RUNBOOK.md that lead nowhere: {', '.join(sorted(set(broken)))}"
    assert "docs/RUNBOOK.md" in (REPO / "README.md").read_text(), "README.md does not link to docs/RUNBOOK.md"


@pytest.mark.parametrize("name", ["Is everything stored?", "Stop it without losing anything", "It ended with 74: get the files back",
                                  "Rotate keys", "The wrong tenant's bucket", "Two machines", "Read-only tenant",
                                  "The index is broken: have it rebuilt", "Collect what a bug report needs"])
def test_the_procedures_are_there(name):
    assert section(name).strip()


def test_it_can_be_read_at_night():
    assert len(RUNBOOK.splitlines()) <= 600
