"""The network and the store do what rclone does not see: what was acknowledged is in the bucket all the same, and what was
deleted is not."""

import errno
import json
import os
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from lib.faultproxy import FaultProxy
from lib.wait import wait_until

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def network(s3_server):
    """Between the tenant and its bucket."""
    with FaultProxy(s3_server.port) as proxy:
        yield proxy


@pytest.fixture
def tenant(make_tenant, s3_server, network):
    return make_tenant(s3_server, env=through(network)).start().wait_ready()


def through(network):
    return {"AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{network.port}"}


def wait_contents(s3_server, wanted, seconds=40):
    """Until the bucket holds just this."""
    def contents():
        return {name: s3_server.read(name) for name in s3_server.objects()}

    wait_until(lambda: contents() == wanted, seconds, lambda: f"{wanted}, not {contents()}", every=0.2)


def restored(tenant, name):
    return any('"upload_restored"' in line and name in line for line in tenant.log().splitlines())


def uploading(tenant, network, text):
    """Writes `note.md`; its upload is on its way and stays there until `deliver()`."""
    upload = network.hold_next(b"PUT /notes/note.md")
    (tenant.mount / "note.md").write_text(text)
    assert upload.arrived.wait(20)
    return upload


def test_an_upload_that_arrives_after_a_newer_one_does_not_stay(tenant, s3_server, network):
    old = uploading(tenant, network, "old\n")
    (tenant.mount / "note.md").write_text("the newer one\n")
    wait_contents(s3_server, {"note.md": "the newer one\n"})
    old.deliver()
    wait_contents(s3_server, {"note.md": "old\n"})
    wait_contents(s3_server, {"note.md": "the newer one\n"})
    assert restored(tenant, "note.md")
    assert (tenant.mount / "note.md").read_text() == "the newer one\n"
    assert tenant.stop().code == 0
    wait_contents(s3_server, {"note.md": "the newer one\n"}, 0)


def test_an_upload_that_arrives_after_its_file_was_deleted_does_not_bring_it_back(tenant, s3_server, network):
    upload = uploading(tenant, network, "deleted\n")
    (tenant.mount / "note.md").unlink()
    (tenant.mount / "other.md").write_text("time passes\n")
    wait_contents(s3_server, {"other.md": "time passes\n"})
    upload.deliver()
    wait_until(lambda: "note.md" in s3_server.objects(), 20)
    wait_contents(s3_server, {"other.md": "time passes\n"})
    assert not (tenant.mount / "note.md").exists()
    assert tenant.stop().code == 0
    wait_contents(s3_server, {"other.md": "time passes\n"}, 0)


def test_a_stored_file_renamed_over_one_that_is_being_uploaded_replaces_it(tenant, s3_server, network):
    (tenant.mount / "stored.md").write_text("the one to keep\n")
    wait_contents(s3_server, {"stored.md": "the one to keep\n"})
    upload = uploading(tenant, network, "replaced\n")
    os.replace(tenant.mount / "stored.md", tenant.mount / "note.md")
    upload.deliver()
    wait_contents(s3_server, {"note.md": "the one to keep\n"})
    assert (tenant.mount / "note.md").read_text() == "the one to keep\n"
    assert tenant.stop().code == 0
    wait_contents(s3_server, {"note.md": "the one to keep\n"}, 0)


def test_what_an_upload_overwrote_is_put_right_only_after_rclone_has_verified_that_upload(tenant, s3_server, network):
    """It would take the sizes for a copy gone wrong, and the object away. (Found by a storm.)"""
    (tenant.mount / "stored.md").write_text("the one to keep\n")
    wait_until(lambda: tenant.settled("stored.md"), 20)
    upload = uploading(tenant, network, "replaced\n")
    os.replace(tenant.mount / "stored.md", tenant.mount / "note.md")
    check = network.hold_next(b"HEAD /notes/note.md", b"rclone/")
    upload.deliver()
    if check.arrived.wait(20):
        # Somebody looks, and finds the wrong object.
        looked = network.seen.count("HEAD /notes/note.md HTTP/1.1")
        wait_until(lambda: network.seen.count("HEAD /notes/note.md HTTP/1.1") >= looked + 2, 20, lambda: str(network.seen))
    check.deliver()
    wait_contents(s3_server, {"note.md": "the one to keep\n"})
    assert (tenant.mount / "note.md").read_text() == "the one to keep\n"
    assert tenant.stop().code == 0
    wait_contents(s3_server, {"note.md": "the one to keep\n"}, 0)


def test_a_rename_that_meets_an_upload_of_its_target_costs_neither_file(tenant, s3_server, network):
    """rclone copies in the bucket, finds the length of the upload that arrived meanwhile, and takes that away as a copy gone wrong."""
    (tenant.mount / "stored.md").write_text("the one to keep\n")
    wait_contents(s3_server, {"stored.md": "the one to keep\n"})
    upload = uploading(tenant, network, "uploaded at a bad moment\n")
    check = []
    copying = network.before_next(b"X-Amz-Copy-Source", lambda: check.append(network.hold_next(b"HEAD /notes/note.md")))
    with ThreadPoolExecutor(1) as other:
        rename = other.submit(os.replace, tenant.mount / "stored.md", tenant.mount / "note.md")
        assert copying.wait(20) and check[0].arrived.wait(20)
        upload.deliver()
        wait_until(lambda: s3_server.objects().get("note.md") == 25, 20, lambda: str(s3_server.objects()))
        check[0].deliver()
        failure = rename.exception(60)
    # On nfs, or with another rclone, it may succeed; what was acknowledged is there in either case.
    wanted = {"note.md": "the one to keep\n"}
    if failure:
        assert failure.errno == errno.EIO
        wanted = {"note.md": "uploaded at a bad moment\n", "stored.md": "the one to keep\n"}
    wait_contents(s3_server, wanted)
    if failure and tenant.status()["services"]["mount"]["driver"] == "fuse":
        # That rclone takes one file for the other now.
        wait_until(lambda: tenant.status()["services"]["mount"]["restarts"] == 1 and tenant.ready(), 40, tenant.log)
    assert {name: (tenant.mount / name).read_text() for name in os.listdir(tenant.mount)} == wanted
    assert tenant.stop().code == 0
    wait_contents(s3_server, wanted, 0)


def test_a_file_that_a_failed_rename_takes_out_of_the_bucket_late_is_put_back(tenant, s3_server, network):
    """The deletion is on its way while the bucket is looked at. (Found by a storm.)"""
    (tenant.mount / "stored.md").write_text("the one to keep\n")
    wait_contents(s3_server, {"stored.md": "the one to keep\n"})
    upload = uploading(tenant, network, "uploaded at a bad moment\n")
    check = []
    copying = network.before_next(b"X-Amz-Copy-Source", lambda: check.append(network.hold_next(b"HEAD /notes/note.md")))
    with ThreadPoolExecutor(1) as other:
        rename = other.submit(os.replace, tenant.mount / "stored.md", tenant.mount / "note.md")
        assert copying.wait(20) and check[0].arrived.wait(20)
        upload.deliver()
        wait_until(lambda: s3_server.objects().get("note.md") == 25, 20, lambda: str(s3_server.objects()))
        removal = network.hold_next(b"DELETE /notes/note.md")
        check[0].deliver()
        if removal.arrived.wait(5):
            # Somebody looks, and finds the object.
            looked = network.seen.count("HEAD /notes/note.md HTTP/1.1")
            wait_until(lambda: network.seen.count("HEAD /notes/note.md HTTP/1.1") > looked, 20)
        removal.deliver()
        failure = rename.exception(60)
    # On nfs, or with another rclone, it may succeed; what was acknowledged is there in either case.
    wanted = {"note.md": "the one to keep\n"}
    if failure:
        wanted = {"note.md": "uploaded at a bad moment\n", "stored.md": "the one to keep\n"}
    wait_contents(s3_server, wanted)
    assert tenant.stop().code == 0
    wait_contents(s3_server, wanted, 0)


def test_a_file_whose_rename_failed_is_stored_under_the_name_it_kept(tenant, s3_server, network):
    """rclone would take it for the new name from then on. (nfs: tests/vm/test_rename.py)"""
    (tenant.mount / "stored.md").write_text("before\n")
    wait_until(lambda: tenant.settled("stored.md"), 20)
    network.status(500)
    with pytest.raises(OSError) as failure:
        os.rename(tenant.mount / "stored.md", tenant.mount / "moved.md")
    assert failure.value.errno == errno.EIO
    network.ok()
    if tenant.status()["services"]["mount"]["driver"] == "fuse":
        wait_until(lambda: tenant.status()["services"]["mount"]["restarts"] == 1, 20, tenant.log)
    wait_until(tenant.ready, 40, tenant.log)
    with open(tenant.mount / "stored.md", "a") as file:
        file.write("after\n")
    wait_contents(s3_server, {"stored.md": "before\nafter\n"})
    assert os.listdir(tenant.mount) == ["stored.md"]
    assert tenant.stop().code == 0
    wait_contents(s3_server, {"stored.md": "before\nafter\n"}, 0)


def test_a_file_renamed_over_one_that_is_uploaded_survives_an_rclone_that_is_killed_then(make_tenant, s3_server, network):
    """Both have the same length, so rclone's description of the cached file fits either."""
    tenant = make_tenant(s3_server, env=through(network) | {"TENANT_INIT_MOUNT__WRITE_BACK": "3s"}).start().wait_ready()
    upload = uploading(tenant, network, "before\n")
    (tenant.mount / "note.tmp").write_text("after!\n")
    os.replace(tenant.mount / "note.tmp", tenant.mount / "note.md")
    upload.deliver()
    wait_contents(s3_server, {"note.md": "before\n"})
    os.kill(tenant.service_pid("mount"), signal.SIGKILL)
    wait_contents(s3_server, {"note.md": "after!\n"})
    wait_until(tenant.ready, 40)
    assert (tenant.mount / "note.md").read_text() == "after!\n"
    assert tenant.stop().code == 0


def test_a_rename_that_is_carried_out_after_its_rclone_was_killed_replaces_nothing(make_tenant, s3_server, network):
    """Found by a storm: rclone took the late copy for somebody else's change, and threw away what it had cached of the file."""
    tenant = make_tenant(s3_server, env=through(network) | {"TENANT_INIT_MOUNT__REFRESH_INTERVAL": "1s", "TENANT_INIT_LOG__LEVEL": "debug"}).start().wait_ready()
    kept = {"note.md": "what was there\n" * 50, "source.md": "to be renamed\n"}
    for name, text in kept.items():
        (tenant.mount / name).write_text(text)
    wait_contents(s3_server, kept)
    wait_until(lambda: all(tenant.settled(name) for name in kept), 20)
    copy = network.hold_next(b"X-Amz-Copy-Source")
    rename = subprocess.Popen(["mv", "-T", tenant.mount / "source.md", tenant.mount / "note.md"], stderr=subprocess.DEVNULL)
    assert copy.arrived.wait(20)
    killed = tenant.service_pid("mount")
    os.kill(killed, signal.SIGKILL)
    assert rename.wait(20) != 0
    wait_until(lambda: tenant.ready() and tenant.service_pid("mount") != killed, 30, tenant.log)
    copy.deliver()
    wait_until(lambda: s3_server.read("note.md") == kept["source.md"], 20, "the copy arrives")
    wait_contents(s3_server, kept, 60)
    with open(tenant.mount / "note.md", "a") as file:
        file.write("and more\n")
    kept["note.md"] += "and more\n"
    assert (tenant.mount / "note.md").read_text() == kept["note.md"]
    wait_contents(s3_server, kept)
    assert tenant.stop().code == 0
    wait_contents(s3_server, kept, 0)


def test_a_rename_that_is_carried_out_after_the_machine_died_replaces_nothing(make_tenant, s3_server, network):
    tenant = make_tenant(s3_server, env=through(network)).start().wait_ready()
    kept = {"note.md": "what was there\n" * 50, "source.md": "to be renamed\n"}
    for name, text in kept.items():
        (tenant.mount / name).write_text(text)
    wait_contents(s3_server, kept)
    wait_until(lambda: all(tenant.settled(name) for name in kept), 20)
    copy = network.hold_next(b"X-Amz-Copy-Source")
    rename = subprocess.Popen(["mv", "-T", tenant.mount / "source.md", tenant.mount / "note.md"], stderr=subprocess.DEVNULL)
    assert copy.arrived.wait(20)
    tenant.kill()
    copy.deliver()
    rename.wait(20)
    wait_until(lambda: s3_server.read("note.md") == kept["source.md"], 20, "the copy arrives")
    tenant.clean_up()
    tenant.start().wait_ready()
    assert {name: (tenant.mount / name).read_text() for name in kept} == kept
    wait_contents(s3_server, kept, 20)
    assert tenant.stop().code == 0


def test_a_rename_of_what_is_only_in_the_bucket_stays_when_rclone_is_killed_after_it(make_tenant, s3_server, network):
    """The cache still has what the file had before that was replaced."""
    tenant = make_tenant(s3_server, env=through(network)).start().wait_ready()
    files = {"note.md": "what was there\n" * 50, "source.md": "to be renamed\n"}
    for name, text in files.items():
        (tenant.mount / name).write_text(text)
    wait_contents(s3_server, files)
    assert tenant.stop().code == 0
    for kind in ("vfs", "vfsMeta"):
        (tenant.cache / kind / "tenant/notes/source.md").unlink()
    tenant.start().wait_ready()
    assert (tenant.mount / "note.md").read_text() == files["note.md"]
    os.replace(tenant.mount / "source.md", tenant.mount / "note.md")
    wait_contents(s3_server, {"note.md": files["source.md"]})
    killed = tenant.service_pid("mount")
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: tenant.ready() and tenant.service_pid("mount") != killed, 30, tenant.log)
    assert tenant.stop().code == 0
    wait_contents(s3_server, {"note.md": files["source.md"]}, 0)
    tenant.start().wait_ready()
    assert (tenant.mount / "note.md").read_text() == files["source.md"]
    assert not restored(tenant, "note.md")


def test_an_upload_that_arrives_late_is_undone_when_rclone_is_killed_then(tenant, s3_server, network):
    """The next rclone finds it in the bucket, and would take its cached file for outdated. (Found by a storm.)"""
    old = uploading(tenant, network, "old\n")
    (tenant.mount / "note.md").write_text("the newer one\n")
    wait_contents(s3_server, {"note.md": "the newer one\n"})
    # rclone looks at what it has uploaded, and then we do.
    wait_until(lambda: network.seen.count("HEAD /notes/note.md HTTP/1.1") >= 2, 20, lambda: str(network.seen))
    old.deliver()
    wait_contents(s3_server, {"note.md": "old\n"})
    os.kill(tenant.service_pid("mount"), signal.SIGKILL)
    wait_until(lambda: tenant.status()["services"]["mount"]["restarts"] == 1 and tenant.ready(), 40, tenant.log)
    assert (tenant.mount / "note.md").read_text() == "the newer one\n"
    wait_contents(s3_server, {"note.md": "the newer one\n"})
    assert tenant.stop().code == 0
    wait_contents(s3_server, {"note.md": "the newer one\n"}, 0)


def test_an_upload_that_arrives_late_is_undone_when_the_tenant_is_stopped_then(tenant, s3_server, network):
    """The file had been compared with the bucket before. (Found by a storm.)"""
    old = uploading(tenant, network, "old\n")
    (tenant.mount / "note.md").write_text("the newer one\n")
    wait_contents(s3_server, {"note.md": "the newer one\n"})
    # rclone looks at what it has uploaded, and then we do.
    wait_until(lambda: network.seen.count("HEAD /notes/note.md HTTP/1.1") >= 2, 20, lambda: str(network.seen))
    old.deliver()
    wait_contents(s3_server, {"note.md": "old\n"})
    assert tenant.stop().code == 0
    wait_contents(s3_server, {"note.md": "the newer one\n"}, 0)


def test_a_folder_is_not_read_again_while_an_old_upload_may_be_in_it(make_tenant, s3_server, network):
    """rclone would take its cached file for outdated, and throw the newer content away. (Found by a storm.)"""
    env = through(network) | {"TENANT_INIT_MOUNT__REFRESH_INTERVAL": "1s", "TENANT_INIT_MOUNT__ATTRIBUTE_TIMEOUT": "1s"}
    tenant = make_tenant(s3_server, env=env).start().wait_ready()
    old = uploading(tenant, network, "the old one, which is longer\n")
    (tenant.mount / "note.md").write_text("the newer one\n")
    wait_contents(s3_server, {"note.md": "the newer one\n"})
    # rclone looks at what it has uploaded, and then we do.
    wait_until(lambda: network.seen.count("HEAD /notes/note.md HTTP/1.1") >= 2, 20, lambda: str(network.seen))
    s3_server.put("other.md", "from elsewhere\n")
    old.deliver()

    def put_right():
        assert (tenant.mount / "note.md").read_text() == "the newer one\n"
        return restored(tenant, "note.md")

    wait_until(put_right, 30, every=0.1)
    wait_until(lambda: "other.md" in os.listdir(tenant.mount), 60, every=0.5)
    assert (tenant.mount / "note.md").read_text() == "the newer one\n"
    assert tenant.stop().code == 0
    wait_contents(s3_server, {"note.md": "the newer one\n", "other.md": "from elsewhere\n"}, 0)


def test_what_was_seen_in_the_bucket_before_a_stop_is_not_sent_again_by_the_next_start(make_tenant, s3_server, network):
    """Somebody else may have changed it meanwhile."""
    tenant = make_tenant(s3_server, env=through(network)).start().wait_ready()
    uploading(tenant, network, "never arrives\n")
    (tenant.mount / "note.md").write_text("from here\n")
    wait_contents(s3_server, {"note.md": "from here\n"})
    wait_until(lambda: network.seen.count("HEAD /notes/note.md HTTP/1.1") >= 2, 20, lambda: str(network.seen))
    network.lose()
    assert tenant.stop().code == 0
    # The minute in which that first try could have arrived is over.
    journal = tenant.cache / "ledger-notes.jsonl"
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    for line in lines:
        if "risk" in line:
            line["risk"] = "2000-01-01T00:00:00Z"
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
    s3_server.put("note.md", "from elsewhere\n")
    again = make_tenant(s3_server).start().wait_ready()
    assert (again.mount / "note.md").read_text() == "from elsewhere\n"
    assert again.stop().code == 0
    wait_contents(s3_server, {"note.md": "from elsewhere\n"}, 0)


def test_a_deletion_of_ours_that_arrives_late_takes_no_new_file_away(tenant, s3_server, network):
    """rclone forgets the object; tenant-init deletes it; the network keeps that request until the name is used again."""
    (tenant.mount / "note.md").write_text("old\n")
    wait_until(lambda: tenant.settled("note.md"), 20)
    removal = network.hold_next(b"DELETE /notes/note.md", b"tenant-init/")
    (tenant.mount / "note.tmp").write_text("replaced\n")
    os.replace(tenant.mount / "note.tmp", tenant.mount / "note.md")
    (tenant.mount / "note.md").unlink()
    assert removal.arrived.wait(20)
    looked = network.seen.count("HEAD /notes/note.md HTTP/1.1")
    (tenant.mount / "note.md").write_text("the new one\n")
    wait_contents(s3_server, {"note.md": "the new one\n"})
    # rclone looks at what it has uploaded, and then we do.
    wait_until(lambda: network.seen.count("HEAD /notes/note.md HTTP/1.1") >= looked + 2, 30, lambda: str(network.seen))
    removal.deliver()
    wait_contents(s3_server, {})
    wait_contents(s3_server, {"note.md": "the new one\n"})
    assert (tenant.mount / "note.md").read_text() == "the new one\n"
    assert tenant.stop().code == 0
    wait_contents(s3_server, {"note.md": "the new one\n"}, 0)


def test_a_file_that_is_deleted_while_it_is_restored_stays_deleted(tenant, s3_server, network):
    old = uploading(tenant, network, "old\n")
    (tenant.mount / "note.md").write_text("the newer one\n")
    wait_contents(s3_server, {"note.md": "the newer one\n"})
    restoring = network.hold_next(b"PUT /notes/note.md", b"tenant-init/")
    old.deliver()
    assert restoring.arrived.wait(30)
    (tenant.mount / "note.md").unlink()
    wait_contents(s3_server, {})
    restoring.deliver()
    # A store that knows conditions refuses it; this one may not.
    (tenant.mount / "other.md").write_text("time passes\n")
    wait_until(lambda: tenant.settled("other.md"), 20)
    wait_contents(s3_server, {"other.md": "time passes\n"})
    assert os.listdir(tenant.mount) == ["other.md"]
    assert tenant.stop().code == 0
    wait_contents(s3_server, {"other.md": "time passes\n"}, 0)


def test_a_deletion_survives_a_supervisor_that_is_killed_right_after_it(make_tenant, s3_server):
    """rclone has forgotten the object in the bucket; who remembered it is gone, too."""
    tenant = make_tenant(s3_server).start().wait_ready()
    (tenant.mount / "note.md").write_text("old\n")
    wait_contents(s3_server, {"note.md": "old\n"})
    (tenant.mount / "note.tmp").write_text("new\n")
    os.replace(tenant.mount / "note.tmp", tenant.mount / "note.md")
    (tenant.mount / "note.md").unlink()
    # Its own log of that reaches it within milliseconds; there is no other sign to wait for.
    wait_until(lambda: "note.md" in (tenant.cache / "ledger-notes.jsonl").read_text(), 5)
    os.kill(tenant.supervisor_pid(), signal.SIGKILL)
    tenant.wait()
    again = make_tenant(s3_server).start().wait_ready()
    assert os.listdir(again.mount) == []
    wait_contents(s3_server, {})
    assert again.stop().code == 0


def test_a_deletion_that_the_bucket_refused_is_not_made_later(tenant, s3_server, network):
    """The program was told that the file is still there."""
    for name in ("kept.md", "other.md"):
        (tenant.mount / name).write_text("kept\n")
    wait_until(lambda: tenant.settled("kept.md") and tenant.settled("other.md"), 20)
    network.status(500)
    with pytest.raises(OSError) as failure:
        (tenant.mount / "kept.md").unlink()
    assert failure.value.errno == errno.EIO
    network.ok()
    wait_until(tenant.ready, 40, tenant.log)
    (tenant.mount / "other.md").unlink()
    wait_until(lambda: s3_server.objects() == {"kept.md": 5}, 20)
    assert (tenant.mount / "kept.md").read_text() == "kept\n"
    assert tenant.stop().code == 0
    wait_contents(s3_server, {"kept.md": "kept\n"}, 0)


def test_a_change_made_elsewhere_is_left_alone(tenant, s3_server, rclone):
    """By somebody who is not this machine, at the moment of an upload."""
    (tenant.mount / "note.md").write_text("from here\n")
    wait_contents(s3_server, {"note.md": "from here\n"})
    # By way of the server: it keeps a note of who wrote an object.
    subprocess.run([rclone, "rcat", "T:notes/note.md"], input=b"from there\n", env=s3_server.rclone_env(), check=True)
    (tenant.mount / "other.md").write_text("time passes\n")
    wait_contents(s3_server, {"note.md": "from there\n", "other.md": "time passes\n"})
    assert tenant.stop().code == 0
    wait_contents(s3_server, {"note.md": "from there\n", "other.md": "time passes\n"}, 0)
    assert not restored(tenant, "note.md")
