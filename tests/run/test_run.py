"""`run -- CMD`: any command on the mount, and what its end means."""

import os

from lib.wait import wait_until


def test_the_apps_own_code_is_the_exit_code_and_its_files_are_stored(make_tenant, s3_server):
    tenant = make_tenant(s3_server, app=["sh", "-c", "echo result > out.md; exit 3"]).start()
    ended = tenant.wait()
    assert ended.code == 3
    assert ended.verdict["stored"] is True
    assert s3_server.objects() == {"out.md": 7}, "the app's directory is the mount"


def test_an_app_killed_by_a_signal_is_128_plus_n(make_tenant, s3_server):
    ended = make_tenant(s3_server, app=["sh", "-c", "kill -9 $$"]).start().wait()
    assert ended.code == 137


def test_a_command_that_does_not_exist_is_found_before_anything_is_mounted(make_tenant, s3_server):
    tenant = make_tenant(s3_server, app=["no-such-command"])
    ended = tenant.start().wait()
    assert ended.code == 78
    assert "no-such-command is not in PATH" in ended.last_line


def test_the_app_runs_as_its_own_user_without_our_secrets(make_tenant, s3_server):
    app = ["sh", "-c", "id -un > who.md; env > environment.md; touch mine.md; stat -c %U mine.md >> who.md"]
    assert make_tenant(s3_server, app=app).start().wait().code == 0
    assert s3_server.read("who.md").split() == ["nobody", "nobody"]
    environment = s3_server.read("environment.md")
    assert s3_server.secret not in environment and s3_server.key_id not in environment
    assert "AWS_" not in environment and "TENANT_INIT" not in environment


def test_no_secret_in_any_argument_environment_or_log(running_tenant, s3_server):
    from lib.tenant import descendants

    for pid in descendants(running_tenant.process.pid):
        for name in ("cmdline", "environ"):
            with open(f"/proc/{pid}/{name}", "rb") as file:
                text = file.read()
            supervisor = name == "environ" and pid == running_tenant.supervisor_pid()
            assert supervisor or s3_server.secret.encode() not in text, f"{name} of {pid}"
    for shown in (running_tenant.log(), str(running_tenant.status()), running_tenant.get("/metrics")[1]):
        assert s3_server.secret not in shown and s3_server.key_id not in shown


def test_a_restarted_app_finds_its_mount(make_tenant, s3_server):
    app = ["sh", "-c", "echo life >> lives.md; sleep 0.3; exit 1"]
    tenant = make_tenant(s3_server, app=app, env={"TENANT_INIT_APP__RESTART": "always"}).start()
    wait_until(lambda: (tenant.mount / "lives.md").read_text().count("life") >= 3, 30)
    assert tenant.status()["services"]["app"]["restarts"] >= 2
    assert tenant.stop().code == 0
    assert s3_server.read("lives.md").count("life") >= 3


def test_the_restart_budget_ends_in_75(make_tenant, s3_server):
    env = {"TENANT_INIT_APP__RESTART": "on-failure", "TENANT_INIT_LIMITS__RESTART_BUDGET": "2"}
    ended = make_tenant(s3_server, app=["false"], env=env).start().wait(60)
    assert ended.code == 75
    assert "too often" in ended.verdict["reason"]


def test_nothing_can_be_written_beside_the_mount(make_tenant, s3_server):
    """Neither before the mount is there, nor after it was taken away, not even by root."""
    tenant = make_tenant(s3_server)
    seen = []

    def poke():
        try:
            (tenant.mount / "stray.md").write_text("stray\n")
            # Only the mount accepts it: then it must reach the bucket.
            seen.append("fuse.rclone" in tenant.mounts())
        except OSError:
            pass

    tenant.start()
    while "fuse.rclone" not in tenant.mounts():
        if tenant.mounts():
            poke()
    tenant.wait_ready()
    assert tenant.stop().code == 0
    assert all(seen)
    assert os.listdir(tenant.mount) == []


def test_a_killed_mounter_is_replaced_and_nothing_is_lost(make_tenant, s3_server):
    tenant = make_tenant(s3_server).start().wait_ready()
    written = {}
    for life in range(4):
        first = tenant.service_pid("mount")
        for number in range(20):
            name = f"life-{life}-{number}.md"
            (tenant.mount / name).write_text(f"acknowledged {name}\n")
            written[name] = f"acknowledged {name}\n"
        # In the very moment in which the last close has returned.
        os.kill(first, 9)
        wait_until(lambda: tenant.ready() and tenant.service_pid("mount") not in (None, first), 40)
        for name, text in written.items():
            assert (tenant.mount / name).read_text() == text
    assert tenant.status()["services"]["mount"]["restarts"] == 4
    assert tenant.stop().code == 0
    assert {name: s3_server.read(name) for name in s3_server.objects()} == written


def replace(path, text):
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


def test_a_replaced_file_that_is_deleted_or_renamed_before_its_upload_does_not_come_back(make_tenant, s3_server):
    """rclone forgets the old object then, and the old content would be back at the next start."""
    tenant = make_tenant(s3_server).start().wait_ready()
    for name in ("deleted.md", "renamed.md", "again.md"):
        (tenant.mount / name).write_text("old\n")
    wait_until(lambda: len(s3_server.objects()) == 3, 20)
    for name in ("deleted.md", "renamed.md", "again.md"):
        replace(tenant.mount / name, "new\n")
    (tenant.mount / "deleted.md").unlink()
    os.rename(tenant.mount / "renamed.md", tenant.mount / "other.md")
    (tenant.mount / "again.md").unlink()
    (tenant.mount / "again.md").write_text("third\n")
    wait_until(lambda: set(s3_server.objects()) == {"other.md", "again.md"}, 20, lambda: str(s3_server.objects()))
    assert sorted(os.listdir(tenant.mount)) == ["again.md", "other.md"]
    assert tenant.stop().code == 0
    assert {name: s3_server.read(name) for name in s3_server.objects()} == {"other.md": "new\n", "again.md": "third\n"}


def test_a_deletion_that_could_not_be_carried_out_is_named_and_finished_by_the_next_start(make_tenant, s3_server):
    env = {"TENANT_INIT_LIMITS__STOP_TIMEOUT": "6s"}
    tenant = make_tenant(s3_server, env=env).start().wait_ready()
    (tenant.mount / "note.md").write_text("old\n")
    wait_until(lambda: s3_server.objects() == {"note.md": 4}, 20)
    replace(tenant.mount / "note.md", "new\n")
    s3_server.kill()
    (tenant.mount / "note.md").unlink()
    ended = tenant.stop()
    assert ended.code == 74
    assert "note.md (to be deleted)" in ended.verdict["uploads_pending"]
    s3_server.start()
    again = make_tenant(s3_server, env=env).start().wait_ready()
    wait_until(lambda: s3_server.objects() == {}, 20)
    assert again.stop().code == 0


def test_a_machine_that_disappears_leaves_its_files_to_the_next_life_on_its_disk(make_tenant, s3_server):
    tenant = make_tenant(s3_server, env={"TENANT_INIT_MOUNT__WRITE_BACK": "30s"}).start().wait_ready()
    (tenant.mount / "unsent.md").write_text("unsent\n")
    tenant.kill()
    assert s3_server.objects() == {}
    again = make_tenant(s3_server).start().wait_ready()
    assert "unsent" in again.log() or "not stored" in again.log() or "not in the bucket" in again.log()
    assert (again.mount / "unsent.md").read_text() == "unsent\n"
    assert again.stop().code == 0
    assert s3_server.objects() == {"unsent.md": 7}


def test_an_outage_degrades_and_recovers_without_a_restart(make_tenant, s3_server):
    tenant = make_tenant(s3_server, env={"TENANT_INIT_HEALTH__STORAGE_INTERVAL": "1s"}).start().wait_ready()
    app = tenant.service_pid("app")
    s3_server.kill()
    wait_until(lambda: tenant.status()["phase"] == "degraded", 20)
    code, body = tenant.get("/readyz")
    assert code == 503 and any(reason.startswith("storage_unreachable") for reason in body["reasons"])
    (tenant.mount / "during.md").write_text("during\n")
    s3_server.start()
    wait_until(tenant.ready, 20)
    wait_until(lambda: s3_server.objects() == {"during.md": 7}, 20)
    services = tenant.status()["services"]
    assert services["app"]["pid"] == app
    assert services["app"]["restarts"] == services["mount"]["restarts"] == 0
    assert tenant.stop().code == 0
