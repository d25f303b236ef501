"""Changes that others make in the bucket are seen; the tenant's own make nobody read a folder again."""

import os

import pytest

from lib.faultproxy import FaultProxy
from lib.wait import wait_until

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def network(s3_server):
    with FaultProxy(s3_server.port) as proxy:
        yield proxy


@pytest.fixture
def tenant(make_tenant, s3_server, network):
    for name in ("folder/changed.md", "folder/deleted.md", "folder/kept.md"):
        s3_server.put(name, f"{name}, as it was\n")
    env = {
        "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{network.port}",
        "TENANT_INIT_MOUNT__REFRESH_INTERVAL": "1s",
        "TENANT_INIT_MOUNT__ATTRIBUTE_TIMEOUT": "1s",
    }
    return make_tenant(s3_server, env=env).start().wait_ready()


def read_again(network):
    """Folders that rclone has listed."""
    return [line for line in network.seen if "list-type=2" in line and "delimiter=%2F" in line]


def listings(network):
    """Listings of the whole bucket."""
    return [line for line in network.seen if "list-type=2" in line and "delimiter" not in line and "max-keys=1 " not in line]


def wait_for_listings(network, count):
    before = len(listings(network))
    wait_until(lambda: len(listings(network)) >= before + count, 30, every=0.1)


def test_what_others_create_change_and_delete_is_seen_in_a_folder_that_is_known(tenant, s3_server):
    folder = tenant.mount / "folder"
    assert sorted(os.listdir(folder)) == ["changed.md", "deleted.md", "kept.md"]
    assert (folder / "changed.md").read_text() == "folder/changed.md, as it was\n"
    s3_server.put("folder/new.md", "new\n")
    s3_server.put("folder/changed.md", "changed by somebody else\n")
    s3_server.put("other/deep/new.md", "in a new folder\n")
    (s3_server.path / "folder/deleted.md").unlink()
    wait_until(lambda: sorted(os.listdir(folder)) == ["changed.md", "kept.md", "new.md"], 20, lambda: os.listdir(folder))
    wait_until(lambda: (folder / "changed.md").read_text() == "changed by somebody else\n", 20)
    wait_until(lambda: "other" in os.listdir(tenant.mount), 20)
    assert (tenant.mount / "other/deep/new.md").read_text() == "in a new folder\n"
    assert (folder / "kept.md").read_text() == "folder/kept.md, as it was\n"


def test_own_changes_make_nobody_read_a_folder_again(tenant, s3_server, network):
    folder = tenant.mount / "folder"
    assert len(os.listdir(folder)) == 3
    (folder / "own.md").write_text("own\n")
    (folder / "kept.md").write_text("written anew\n")
    (folder / "deleted.md").unlink()
    os.rename(folder / "changed.md", folder / "renamed.md")
    (tenant.mount / "own-folder").mkdir()
    (tenant.mount / "own-folder/note.md").write_text("own, too\n")
    wanted = {"folder/own.md", "folder/kept.md", "folder/renamed.md", "own-folder/note.md"}
    wait_until(lambda: set(s3_server.objects()) == wanted, 30, s3_server.objects)
    # Whatever was seen before it was compared with the bucket is over.
    wait_for_listings(network, 2)
    before = len(read_again(network))
    (folder / "own.md").write_text("once more\n")
    (tenant.mount / "own-folder/second.md").write_text("a second one\n")
    wait_until(lambda: s3_server.read("folder/own.md") == "once more\n" and "own-folder/second.md" in s3_server.objects(), 30)
    wait_for_listings(network, 2)
    assert read_again(network)[before:] == []
    # And right after it what somebody else does to the same file is seen.
    s3_server.put("folder/own.md", "theirs\n")
    wait_until(lambda: (folder / "own.md").read_text() == "theirs\n", 20)
    assert len(read_again(network)) > before


def test_folders_that_nobody_has_looked_at_are_known_when_the_bucket_goes_away(make_tenant, s3_server, network):
    """All of them are read at the start, in one listing."""
    for name in ("a/one.md", "a/b/c/two.md", "three.md"):
        s3_server.put(name, f"{name}\n")
    tenant = make_tenant(s3_server, env={"AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{network.port}"}).start().wait_ready()
    network.refuse()
    found = {os.path.relpath(os.path.join(folder, name), tenant.mount) for folder, _, names in os.walk(tenant.mount) for name in names}
    assert found == {"a/one.md", "a/b/c/two.md", "three.md"}
    assert (tenant.mount / "a/b/c/two.md").stat().st_size == len("a/b/c/two.md\n")
    assert not (tenant.mount / "a/none.md").exists()
    network.ok()
    assert tenant.stop().code == 0
