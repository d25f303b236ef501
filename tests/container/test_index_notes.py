"""The index of a tenant is in its database: everything basic-memory does arrives there, and a new machine goes on with it.

The tests of this module are one tenant's life in order: a first machine, its stop, a machine with a new disk, one with the disk
before. Each can also be run by itself.
"""

import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from lib import index
from lib.wait import wait_until

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def first(tenant):
    """The first machine on an empty bucket and an empty database, with some notes."""
    machine = tenant.machine().start().wait_ready()
    machine.write("Plan", "A zebra crosses the street.\n\n- [fact] zebras have stripes #animal\n- relates_to [[Zoo]]", "work")
    machine.write("Zoo", "Here lives an okapi.", "work")
    return machine


@pytest.fixture(scope="module")
def stopped(first):
    """The first machine after a stop right behind a write: (machine, its end)."""
    first.write("Last", "The very last aardvark.", "work")
    return first, first.stop()


@pytest.fixture(scope="module")
def second(tenant, stopped):
    """A new machine with a new disk."""
    return tenant.machine().start().wait_ready()


# -- the first machine --


def test_the_first_start_makes_the_index_and_takes_the_lease(tenant, first):
    assert len(first.events("lease_taken")) == 1
    assert len(first.events("index_fresh")) == 1
    status = first.status()
    service = status["services"]["index"]
    assert (service["state"], service["driver"], service["restarts"]) == ("ready", "libsql", 0)
    assert status["database"]["reachable"] is True
    lease = tenant.lease()
    assert (status["lease"]["held"], status["lease"]["epoch"]) == (True, lease["epoch"])
    assert (lease["id"], lease["format"], lease["epoch"], lease["bucket"]) == (1, 1, 1, "notes")
    # Anybody who looks at the bucket can tell which database belongs to it.
    assert lease["database_id"] in tenant.s3.read(".tenant-init/binding.json")


def test_the_migrations_are_in_the_database(tenant, first):
    first.wait_shipped()
    tables = set(tenant.sqld.tables())
    assert {"alembic_version", "entity", "observation", "relation", "project", "search_index"} <= tables
    # The outbox is a matter of the file.
    assert {name for name in tables if name.startswith("_tenant_init_")} == {"_tenant_init_lease"}


def test_writing_editing_moving_deleting_and_searching(tenant, first):
    with first.mcp() as mcp:
        assert "zebra" in mcp.call("read_note", identifier="work/plan")
        assert "Plan" in mcp.call("search_notes", query="stripes")
        mcp.call("edit_note", identifier="work/plan", operation="append", content="\nThen a giraffe.")
        mcp.call("write_note", title="Scrap", directory="work", content="# Scrap\nthrow me away")
        mcp.call("delete_note", identifier="work/scrap")
        mcp.call("write_note", title="Wanderer", directory="work", content="# Wanderer\nA nomadic walrus.")
        mcp.call("move_note", identifier="work/wanderer", destination_path="done/wanderer.md")
        assert "Wanderer" in mcp.call("search_notes", query="walrus")
        assert "Wanderer" in mcp.call("recent_activity", timeframe="1d")
        assert "Zoo" in mcp.call("build_context", url="memory://work/plan")
    tenant.wait_same(first, words=("zebra", "giraffe", "walrus", "throw"))
    assert {"Plan", "Wanderer", "Zoo"} <= set(tenant.titles()) and "Scrap" not in tenant.titles()
    assert tenant.sqld.query("SELECT permalink FROM entity WHERE title = 'Wanderer'")[0][0].endswith("wanderer")


def test_text_that_is_hard_to_carry(tenant, first):
    """Quotes, zero-width and combining characters, beyond the basic plane, SQL in a title, a long note."""
    first.write("It's \"quoted\"; DROP TABLE entity; --",
                "Grüße aus Zürich, 東京, 👩‍👩‍👧, e\u0301, \u202eabc, ? :name ?1 $a @b", "hard")
    first.write("Long", "\n".join(f"Line {n} about the capybara {n * n}." for n in range(3000)), "hard")
    tenant.wait_same(first, words=("Zürich", "東京", "capybara"))


def test_eight_writers_at_once(tenant, first):
    def writes(writer):
        with first.mcp() as mcp:
            for number in range(3):
                title, friend = f"Writer {writer} {number}", f"Writer {number} {writer % 3}"
                mcp.call("write_note", title=title, directory="many",
                         content=f"# {title}\npelican {writer} {number}\n\n- relates_to [[{friend}]]")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(writes, range(8)))
    tenant.wait_same(first, words=("pelican", "writer"))
    titles = [title for title in tenant.titles() if title.startswith("Writer")]
    assert titles == sorted(f"Writer {writer} {number}" for writer in range(8) for number in range(3))


def test_projects_come_and_go(tenant, first):
    with first.mcp() as mcp:
        mcp.call("create_memory_project", project_name="research", project_path="/data/research")
        mcp.call("write_note", title="Study", directory="", content="# Study\nA study of lemurs.", project="research")
        mcp.call("create_memory_project", project_name="short", project_path="/data/short")
        mcp.call("delete_project", project_name="short")
    tenant.wait_same(first, words=("lemurs",))
    names = {name for name, in tenant.sqld.query("SELECT name FROM project")}
    assert {"main", "research"} <= names and "short" not in names


def test_the_command_line_is_recorded_too(tenant, first):
    """A second process in the container, started by somebody at a shell: what it writes is not lost either."""
    first.basic_memory("tool", "write-note", "--title", "By hand", "--folder", "cli",
                       "--content", "# By hand\nA narwhal on the shell.")
    assert first.finds("narwhal", "By hand")
    tenant.wait_same(first, words=("narwhal",))
    assert "By hand" in tenant.titles()


def test_anybodys_client_can_read_it(tenant, first):
    """A plain database: no format of ours between it and a program that knows nothing of us."""
    pytest.importorskip("libsql", reason="the libsql package has no build for this machine")
    first.wait_shipped()
    words = "SELECT title FROM search_index WHERE search_index MATCH 'okapi' AND type = 'entity'"
    assert index.stock_client_rows(tenant.sqld, words) == [("Zoo",)]


def test_a_copy_for_another_computer(tenant, first):
    """What a user's own basic-memory starts from: a plain SQLite file, made without a lease."""
    first.wait_shipped()
    epoch = tenant.lease()["epoch"]
    done = first.exec("tenant-init", "copy-index", "/tmp/elsewhere.db")
    assert done.returncode == 0 and "position" in done.stdout, done.stderr
    read = "import sqlite3; print(sqlite3.connect('/tmp/elsewhere.db').execute(\"SELECT title FROM search_index WHERE search_index MATCH 'okapi' AND type = 'entity'\").fetchall())"
    assert first.exec("python3", "-c", read).stdout.strip() == "[('Zoo',)]"
    assert tenant.lease()["epoch"] == epoch and first.status()["lease"]["held"] is True


def test_the_token_is_nowhere_to_be_seen(tenant, first):
    token = tenant.sqld.tenants_token
    app = first.status()["services"]["app"]["pid"]
    assert token not in first.exec("sh", "-c", f"tr '\\0' '\\n' </proc/{app}/environ").stdout
    assert token not in first.log() + str(first.status()) + first.get("/metrics")[1] + first.get("/")[1]
    assert token.encode() not in first.memory_db.read_bytes()


# -- its stop --


def test_a_stop_right_after_a_write_leaves_nothing_behind(tenant, stopped):
    machine, end = stopped
    assert (end.code, end.verdict["stored"], end.verdict["index_pending"]) == (0, True, 0)
    assert index.outbox(machine.memory_db) == []
    assert index.differences(machine.memory_db, tenant.sqld, ("aardvark", "zebra")) == []
    assert index.damage(tenant.sqld) == []
    assert "Last" in tenant.titles()
    lease = tenant.lease()
    assert lease["expires_ms"] == 0, "the next machine need not wait"
    assert lease["state"] == "complete"


# -- a new machine --


def test_a_new_machine_has_the_index_at_once(tenant, stopped, second):
    machine, _ = stopped
    assert second.disk != machine.disk
    assert second.finds("aardvark", "Last"), "found by the first question: restored, not rebuilt from the notes"
    assert len(second.events("index_restored")) == 1
    assert not second.events("index_rebuilt") and not second.events("index_fresh")
    assert second.status()["services"]["index"]["restarts"] == 0
    tenant.wait_same(second, words=("zebra", "aardvark"))


def test_it_goes_on_where_the_first_one_ended(tenant, second):
    before = tenant.lease()
    second.write("Onward", "A quokka goes on.", "work")
    tenant.wait_same(second, words=("quokka",))
    after = tenant.lease()
    assert after["epoch"] == before["epoch"] and after["position"] > before["position"]
    assert second.status()["index"]["position"] == after["position"]


def test_ids_go_on_too(tenant, second):
    """What a restored file adds gets the same ids in the database, also after the row with the highest one is gone."""
    second.write("Doomed", "A dodo.", "work")
    second.call("delete_note", identifier="work/doomed")
    second.write("Heir", "Another dodo.", "work")
    tenant.wait_same(second, words=("dodo",))


def test_the_same_disk_again_continues(tenant, second):
    assert second.stop().code == 0
    third = tenant.machine(disk=second.disk).start().wait_ready()
    assert len(third.events("index_continued")) == 1
    assert third.finds("zebra", "Plan")
    tenant.wait_same(third)
    assert third.stop().code == 0

    # A file that is not a database: there is a good copy, and nobody has to know.
    third.memory_db.write_bytes(b"this is not a database" * 1000)
    for name in ("memory.db-wal", "memory.db-shm"):
        third.memory_db.with_name(name).unlink(missing_ok=True)
    fourth = tenant.machine(disk=second.disk).start().wait_ready()
    assert len(fourth.events("index_restored")) == 1
    assert fourth.finds("zebra", "Plan")
    tenant.wait_same(fourth)
    assert fourth.stop().code == 0


def test_a_database_that_was_never_finished_is_not_restored(tenant, second):
    """Seeding was interrupted: the file is built from the notes, as without a database, and the database filled again."""
    tenant.alone()
    tenant.sqld.query("UPDATE _tenant_init_lease SET state = 'partial', expires_ms = 0")
    machine = tenant.machine().start().wait_ready()
    assert machine.events("index_rebuilt") and not machine.events("index_restored")
    wait_until(lambda: machine.finds("zebra", "Plan"), 60, "the notes are found again", every=0.5)
    tenant.wait_same(machine)
    assert tenant.lease()["state"] == "complete"
    # Every note of the bucket once, none twice.
    notes = [key for key in tenant.s3.objects() if re.match(r"main/.*\.md$", key)]
    wait_until(lambda: tenant.sqld.query("SELECT count(*) FROM entity e JOIN project p ON p.id = e.project_id "
                                         "WHERE p.name = 'main' AND e.file_path LIKE '%.md'") == [(len(notes),)],
               60, lambda: f"{len(notes)} notes in the database, which has {len(tenant.titles())}", every=0.5)
