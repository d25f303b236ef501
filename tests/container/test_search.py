"""Search: by words in the default image, by meaning too in the one with the model (`scripts/image.sh --semantic`).

Neither ever looks for a model elsewhere: the first note would wait for that, over a minute where the network is silent.
"""

import socket
import subprocess
import threading
from contextlib import closing

import pytest

from lib import container
from lib.indexed import PROMPT
from lib.wait import wait_until

pytestmark = pytest.mark.timeout(300)

NOTES = {
    "Stripes": "The zebra crosses the savanna at dawn.",
    "Bread": "Sourdough needs flour, water and patience.",
    "Engine": "The motor of the car has a broken piston.",
}
# No word in common with the note that is meant.
MEANT = {"African wildlife": "Stripes", "baking a loaf": "Bread", "vehicle repair": "Engine"}


class Outside:
    """What the app takes for its way to the rest of the world (an HTTP proxy); `asked` is what it wanted from there."""

    def __enter__(self):
        self.asked = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.listener.close()

    def _listen(self):
        with self.listener:
            while True:
                try:
                    connection, _ = self.listener.accept()
                except OSError:
                    return
                with connection:
                    connection.settimeout(5)
                    self.asked.append(connection.recv(200).split(b"\r\n")[0].decode(errors="replace"))
                    connection.sendall(b"HTTP/1.1 503 Nobody\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    def env(self):
        """For the app alone: tenant-init's own way to bucket and database uses no proxy."""
        names = ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")
        return {f"TENANT_INIT_APP__ENVIRONMENT__{name}": f"http://127.0.0.1:{self.port}" for name in names}


@pytest.fixture(scope="module")
def outside():
    with Outside() as outside:
        yield outside


def search(machine, query, seconds=60, **how):
    with machine.mcp(seconds) as mcp:
        return mcp.call("search_notes", query=query, **how)


def nothing_was_asked(machine, outside):
    """Also says that `outside` would have noticed."""
    assert outside.asked == []
    program = "import urllib.request as u; u.urlopen('https://model.invalid')"
    app = machine.status()["services"]["app"]["pid"]
    proxy = machine.exec("sh", "-c", f"tr '\\0' '\\n' </proc/{app}/environ | grep ^https_proxy=").stdout.strip()
    machine.exec("env", proxy, "/opt/basic-memory/bin/python", "-c", program)
    assert [line.split()[:2] for line in outside.asked] == [["CONNECT", "model.invalid:443"]]
    outside.asked.clear()


def test_the_default_image_finds_by_words_at_once(make_indexed_tenant, outside):
    tenant = make_indexed_tenant("words", env=outside.env())
    machine = tenant.machine().start().wait_ready()
    with machine.mcp(PROMPT) as mcp:
        mcp.call("write_note", title="Stripes", directory="notes", content=NOTES["Stripes"])
        assert "Stripes" in mcp.call("search_notes", query="zebra")
        assert "Stripes" not in mcp.call("search_notes", query="African wildlife")
    nothing_was_asked(machine, outside)
    assert machine.stop().code == 0


# -- by meaning --


@pytest.fixture(scope="module")
def by_meaning(make_indexed_tenant, outside):
    """A tenant whose machines have the model, and its first machine with some notes."""
    image = container.SEMANTIC_IMAGE
    if subprocess.run(["podman", "image", "exists", image]).returncode != 0:
        pytest.skip(f"there is no image {image}: 'make image-semantic' builds it")
    tenant = make_indexed_tenant("meaning", env=outside.env(), image=image)
    machine = tenant.machine().start().wait_ready()
    with machine.mcp(PROMPT) as mcp:
        for title, text in NOTES.items():
            mcp.call("write_note", title=title, directory="notes", content=f"# {title}\n{text}")
    return tenant, machine


def finds_all(machine):
    return all(title in search(machine, query, search_type="vector") for query, title in MEANT.items())


def test_a_note_is_found_by_what_it_means(by_meaning, outside):
    tenant, machine = by_meaning
    # A note is embedded after it was written; the first one loads the model.
    wait_until(lambda: finds_all(machine), PROMPT, lambda: search(machine, "African wildlife", search_type="vector"), every=0.2)
    for query, title in MEANT.items():
        found = search(machine, query, PROMPT)
        assert title in found, f"{query}, in the way that is the default: {found}"
        assert [other for other in NOTES if other in found] == [title], f"{query}: {found}"
    assert "Stripes" in search(machine, "zebra", PROMPT, search_type="text")
    nothing_was_asked(machine, outside)


def test_embeddings_are_no_difference_to_the_database(by_meaning):
    """They stay on this disk: the extension that keeps them does not exist there."""
    tenant, machine = by_meaning
    tenant.wait_same(machine)
    machine.signal("USR1")
    wait_until(lambda: machine.events("index_compared") or machine.events("index_broken"), 60, "everything is compared", every=0.2)
    assert not machine.events("index_broken"), machine.events("index_broken")
    assert [table for table in tenant.sqld.tables() if table.startswith("search_vector_")] == []


def test_they_survive_a_restart(by_meaning, outside):
    tenant, machine = by_meaning
    embedded = chunks(machine)
    assert embedded
    assert machine.stop().code == 0
    again = tenant.machine(disk=machine.disk).start().wait_ready()
    assert again.events("index_continued") and not again.events("index_without_embeddings")
    with again.mcp(PROMPT) as mcp:
        assert "Stripes" in mcp.call("search_notes", query="African wildlife"), "found by the first question"
    assert chunks(again) == embedded, "nothing was computed again"
    nothing_was_asked(again, outside)
    assert again.stop().code == 0


def test_a_new_machine_computes_them_again_by_itself(by_meaning, outside):
    tenant, _ = by_meaning
    machine = tenant.alone().machine().start().wait_ready()
    assert machine.events("index_restored")
    [said] = machine.events("index_without_embeddings")
    assert said["notes"] == len(NOTES)
    wait_until(lambda: finds_all(machine), 60, lambda: search(machine, "African wildlife", search_type="vector"), every=0.3)
    tenant.wait_same(machine)
    assert tenant.sqld.query("SELECT count(*) FROM entity WHERE vector_sync_deferred_at IS NOT NULL") == [(0,)], "nothing is owed"
    nothing_was_asked(machine, outside)
    assert machine.stop().code == 0


def chunks(machine):
    """What basic-memory has embedded: key and time of every piece of a note."""
    from lib.index import copy

    with closing(copy(machine.memory_db)) as file:
        return file.execute("SELECT chunk_key, embedding_status, updated_at FROM search_vector_chunks ORDER BY id").fetchall()
