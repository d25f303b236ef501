"""`tenant-provision` against a real S3 server, a real libSQL server and fakes of the administration APIs."""

import fcntl
import json
import os
import pty
import signal
import subprocess

import pytest

from lib.wait import wait_until

MADE = ["CreatePolicy", "CreateAccessKey", "AttachUserPolicy"]


@pytest.fixture(autouse=True)
def no_faults(organization):
    organization.forget()
    yield
    for api in (organization.iam, organization.turso):
        api.before = api.after = lambda name: None
        api.answers.clear()
    organization.iam.miscounted, organization.iam.cut = 0, None


def create(organization, tenant, *arguments):
    done = organization.run("create", tenant, *arguments)
    assert done.returncode == 0, done.stderr
    return done


def read(organization, tenant):
    return json.loads(organization.bundle(tenant).read_text())


def check_complete(organization, tenant):
    """One key with the policy of one bucket, one database, one bundle, and nothing left over."""
    name = f"tenant-{tenant}"
    bundle = read(organization, tenant)
    assert organization.iam.keys_of(name) == [bundle["storage"]["access_key_id"]]
    assert [key for key, made in organization.iam.keys.items() if made.startswith(name + "-")] == organization.iam.keys_of(name)
    assert name in organization.turso.databases and name in organization.buckets()
    assert bundle["index"]["auth_token"] in organization.turso.minted
    assert not organization.bundle(tenant).with_suffix(".json.pending").exists()


def test_a_tenant_is_made_and_tenant_init_takes_its_bundle(organization, make_tenant):
    done = create(organization, "acme")
    assert done.stdout == "" and "9/9 put the new bundle into its place" in done.stderr
    check_complete(organization, "acme")
    assert organization.bundle("acme").stat().st_mode & 0o777 == 0o600
    resources = json.loads(organization.iam.policy("tenant-acme")["document"])["Statement"][0]["Resource"]
    assert resources == ["arn:aws:s3:::tenant-acme", "arn:aws:s3:::tenant-acme/*"]
    env = {"TENANT_INIT_CREDENTIALS__SOURCE": "file", "TENANT_INIT_CREDENTIALS__FILE": str(organization.bundle("acme")),
           "TENANT_ID": "acme", "TENANT_INIT_APP__COMMAND": "sleep infinity"}
    tenant = make_tenant(None, env=env)
    checked = subprocess.run([tenant.program, "check"], env=tenant.env, capture_output=True, text=True, timeout=60)
    for precondition in ("credentials", "tenant", "key", "bucket", "index database"):
        assert f"✓ {precondition}  " in checked.stdout, checked.stdout


def test_given_again_it_does_nothing_and_prints_secrets_only_when_asked(organization):
    create(organization, "again")
    before = organization.everything()
    organization.forget()
    done = create(organization, "again")
    assert "again: nothing to do" in done.stderr and done.stdout == ""
    done = create(organization, "again", "--fly-secrets")
    bundle = read(organization, "again")
    assert dict(line.split("=", 1) for line in done.stdout.splitlines()) == {
        "TENANT_ID": "again", "BUCKET_NAME": "tenant-again", "AWS_ENDPOINT_URL_S3": organization.s3.endpoint,
        "AWS_REGION": "auto", "AWS_ACCESS_KEY_ID": bundle["storage"]["access_key_id"],
        "AWS_SECRET_ACCESS_KEY": bundle["storage"]["secret_access_key"], "TURSO_DATABASE_URL": bundle["index"]["url"],
        "TURSO_AUTH_TOKEN": bundle["index"]["auth_token"]}
    assert organization.everything() == before
    assert organization.iam.changes() + organization.turso.changes() == []


def test_secrets_do_not_go_to_a_terminal(organization):
    ours, theirs = pty.openpty()
    argv = organization.argv("create", "screen", "--fly-secrets")
    done = subprocess.run(argv, env=organization.env, stdout=theirs, stderr=subprocess.PIPE, text=True, timeout=20)
    os.close(theirs)
    os.close(ours)
    assert done.returncode == 64 and "stdout is a terminal" in done.stderr
    assert organization.iam.calls == []


def test_killed_at_any_request_it_goes_on(organization):
    """SIGKILL before and after each request that changes something at one of the two APIs."""
    moments = [(organization.iam, name) for name in MADE]
    moments += [(organization.turso, name) for name in ("POST database", "mint")]
    for number, (api, name) in enumerate(moments):
        for when in ("before", "after"):
            tenant = f"kill-{number}-{when}"
            running = []

            def kill(request, wanted=name, running=running):
                if request == wanted:
                    running[0].send_signal(signal.SIGKILL)
                    running[0].wait()
                    return True
                return False

            setattr(api, when, kill)
            with subprocess.Popen(organization.argv("create", tenant), env=organization.env, stderr=subprocess.DEVNULL) as first:
                running.append(first)
            assert first.returncode == -signal.SIGKILL, (name, when)
            api.before = api.after = lambda name: None
            if name != "mint" and (name, when) != ("AttachUserPolicy", "after"):
                assert f"{tenant}  INCOMPLETE" in organization.run("list").stdout
            assert not organization.bundle(tenant).exists()
            create(organization, tenant)
            check_complete(organization, tenant)


def test_a_rotation_from_end_to_end(organization):
    create(organization, "turn")
    [old] = organization.iam.keys_of("tenant-turn")
    before = read(organization, "turn")
    done = organization.run("rotate", "turn")
    assert done.returncode == 0, done.stderr
    after = read(organization, "turn")
    new = after["storage"]["access_key_id"]
    assert organization.iam.keys_of("tenant-turn") == [old, new], "the old key works until the tenant has the new one"
    assert after["index"]["url"] == before["index"]["url"]
    assert after["index"]["auth_token"] != before["index"]["auth_token"]
    listed = organization.run("list").stdout
    assert "2 keys: `rotate --finish` deletes the old ones" in listed
    done = organization.run("rotate", "turn", "--finish")
    assert done.returncode == 0, done.stderr
    assert organization.iam.keys_of("tenant-turn") == [new]
    done = organization.run("rotate", "turn", "--revoke-old", "--invalidate-tokens")
    assert done.returncode == 0, done.stderr
    check_complete(organization, "turn")
    assert organization.turso.changes()[-2:] == ["rotate", "mint"]


def test_without_the_bundle_nothing_in_use_is_deleted(organization):
    create(organization, "lost")
    [old] = organization.iam.keys_of("tenant-lost")
    organization.bundle("lost").unlink()
    assert organization.run("rotate", "lost", "--finish").returncode == 77
    done = create(organization, "lost")
    assert "1 key(s) of this tenant may be in use" in done.stderr
    assert old in organization.iam.keys_of("tenant-lost")
    assert organization.run("rotate", "lost", "--finish").returncode == 0
    check_complete(organization, "lost")


def refuse_key(organization, tenant):
    bundle = read(organization, tenant)
    bundle["storage"]["secret_access_key"] += "-wrong"
    organization.bundle(tenant).write_text(json.dumps(bundle))


def refuse_token(organization, tenant):
    organization.turso.sqld.revoke()


@pytest.mark.parametrize("refuse", [refuse_key, refuse_token])
def test_a_bundle_that_is_refused_is_made_anew(organization, refuse):
    tenant = refuse.__name__.replace("_", "-")
    create(organization, tenant)
    refuse(organization, tenant)
    assert "the bundle is refused" in create(organization, tenant).stderr
    assert "nothing to do" in create(organization, tenant).stderr
    assert organization.run("rotate", tenant, "--finish").returncode == 0
    check_complete(organization, tenant)


def test_a_key_is_not_deleted_for_what_the_service_did_not_say(organization):
    create(organization, "doubt")
    iam = organization.iam
    lost, _ = iam.pool.pop(0)
    iam.keys[lost] = "tenant-doubt-tenant-provision"
    iam.miscounted = 1
    assert f"delete the key {lost}" not in create(organization, "doubt").stderr
    assert "no key is deleted for not having the policy" in organization.run("rotate", "doubt", "--dry-run").stderr
    iam.miscounted, iam.cut = 0, "ListEntitiesForPolicy"
    done = organization.run("rotate", "doubt")
    assert done.returncode == 78 and "a Marker for the rest of its list" in done.stderr
    assert lost in iam.keys
    iam.cut = None
    create(organization, "doubt")
    check_complete(organization, "doubt")


def test_a_key_that_is_in_no_list_loses_the_policy(organization):
    create(organization, "hidden")
    organization.iam.policy("tenant-hidden")["keys"].append("tid_hidden")
    done = organization.run("delete", "hidden", "--yes")
    assert done.returncode == 0, done.stderr
    assert "take the policy tenant-hidden from the key tid_hidden" in done.stderr
    assert "tenant-hidden" not in organization.buckets() + organization.turso.databases


def test_a_policy_that_came_meanwhile_is_read_before_it_is_attached(organization):
    iam = organization.iam
    wide = {"Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}

    def race(name):
        if name == "CreatePolicy":
            iam.policies["arn:race"] = {"name": "tenant-race", "document": json.dumps(wide), "keys": []}

    iam.before = race
    done = organization.run("create", "race")
    assert done.returncode == 77 and "does not open the tenant's bucket alone" in done.stderr
    assert "AttachUserPolicy" not in iam.calls
    del iam.policies["arn:race"]


def test_one_run_at_a_time_and_owner_and_mode_of_the_bundle_stay(organization):
    create(organization, "alone")
    path = organization.bundle("alone")
    path.chmod(0o640)
    with open(f"{path}.lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = organization.everything()
        done = organization.run("rotate", "alone")
        assert done.returncode == 77 and "another tenant-provision" in done.stderr
        assert organization.everything() == before
    if os.geteuid() == 0:
        os.chown(path, 4321, 1234)
    assert organization.run("rotate", "alone", "--revoke-old").returncode == 0
    found = path.stat()
    assert found.st_mode & 0o777 == 0o640 and (found.st_uid == 4321 or os.geteuid())
    link = path.with_name("link.json")
    link.symlink_to(path)
    done = subprocess.run([*organization.argv("rotate", "alone")[:-1], link], env=organization.env, capture_output=True, text=True)
    assert done.returncode == 78 and "symbolic link" in done.stderr
    link.unlink()


def test_secrets_that_do_not_arrive_are_an_error(organization):
    create(organization, "full")
    with open("/dev/full", "w") as full:
        argv = organization.argv("create", "full", "--fly-secrets")
        done = subprocess.run(argv, env=organization.env, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 71 and "No space left" in done.stderr


def test_delete_wants_to_be_sure(organization):
    create(organization, "gone")
    organization.s3.folder.joinpath("tenant-gone", "notes").mkdir()
    organization.s3.folder.joinpath("tenant-gone", "notes", "a.md").write_text("a note")
    before = organization.everything()
    assert organization.run("delete", "gone").returncode == 64
    done = organization.run("delete", "gone", "--yes")
    assert done.returncode == 77 and "holds the tenant's files" in done.stderr
    done = organization.run("delete", "gone", "--with-files", "--dry-run")
    assert "delete ALL FILES in the bucket tenant-gone" in done.stderr
    assert organization.everything() == before
    done = organization.run("delete", "gone", "--yes", "--with-files")
    assert done.returncode == 0, done.stderr
    assert "tenant-gone" not in organization.buckets() + organization.turso.databases
    assert not [name for name in organization.iam.keys.values() if name.startswith("tenant-gone-")]
    assert "nothing to do" in organization.run("delete", "gone", "--yes").stderr


def test_a_dry_run_changes_nothing(organization):
    before = organization.everything()
    done = create(organization, "dry", "--dry-run")
    assert "nothing is changed" in done.stderr and "make the bucket tenant-dry" in done.stderr
    assert organization.everything() == before
    assert organization.iam.changes() + organization.turso.changes() == []


def test_what_is_somebody_elses_is_not_taken(organization):
    theirs = organization.s3.folder / "tenant-theirs"
    theirs.mkdir()
    (theirs / "a.md").write_text("whose?")
    done = organization.run("create", "theirs")
    assert done.returncode == 77 and "nothing in it says whose it is" in done.stderr
    create(organization, "theirs", "--adopt")
    marker = theirs / ".tenant-init" / "tenant.json"
    assert json.loads(marker.read_text()) == {"version": 1, "tenant": "theirs"}
    marker.write_text('{"version": 1, "tenant": "other"}')
    done = organization.run("rotate", "theirs")
    assert done.returncode == 77 and "the bucket belongs to the tenant \"other\"" in done.stderr
    assert "delete the keys called tenant-theirs-tenant-provision, and no other" in done.stderr
    assert organization.run("delete", "theirs", "--yes", "--with-files", "--adopt").returncode == 77
    assert (theirs / "a.md").exists()
    (organization.s3.folder / "tenant-empty").mkdir()
    assert organization.run("create", "empty").returncode == 77, "an empty bucket may be somebody's"


def test_a_list_says_what_is_incomplete(organization):
    create(organization, "whole")
    organization.turso.databases.append("tenant-half")
    rows = {row["tenant"]: row for row in json.loads(organization.run("list", "", "--json").stdout)["tenants"]}
    assert rows["whole"]["complete"] and [key["id"] for key in rows["whole"]["keys"]] == organization.iam.keys_of("tenant-whole")
    assert not rows["half"]["complete"] and not rows["half"]["bucket"]
    assert "half  INCOMPLETE (no bucket, no policy, no key)" in organization.run("list").stdout
    organization.turso.databases.remove("tenant-half")


@pytest.mark.parametrize(("variable", "code", "words"), [
    ("TIGRIS_ADMIN_SECRET_ACCESS_KEY", 77, "check TIGRIS_ADMIN_ACCESS_KEY_ID"),
    ("TURSO_API_TOKEN", 77, "check TURSO_API_TOKEN"),
    ("TURSO_ORGANIZATION", 78, "organization not found"),
    ("TURSO_GROUP", 78, "group not found"),
    ("TENANT_PROVISION_PREFIX", 78, "TENANT_PROVISION_PREFIX"),
])
def test_wrong_settings_have_their_words(organization, variable, code, words):
    value = "Wrong" if variable == "TENANT_PROVISION_PREFIX" else "wrong"
    tenant = f"wrong-{variable.lower().replace('_', '-')}"
    done = organization.run("create", tenant, **{variable: value})
    assert done.returncode == code and words in done.stderr, done.stderr
    if variable == "TURSO_ORGANIZATION":
        assert f"tenant-{tenant}" not in organization.buckets(), "it is said before anything is made"


def test_a_name_that_no_bucket_can_have_is_refused(organization):
    done = organization.run("create", "Acme_1")
    assert done.returncode == 64 and "lower-case letters" in done.stderr
    assert organization.iam.calls == []


def test_a_service_that_is_busy_is_waited_for(organization):
    create(organization, "busy")
    organization.iam.answers.append((429, {"Retry-After": "1"}))
    organization.turso.answers.append((503, {}))
    create(organization, "busy")


def test_a_running_tenant_takes_over_a_rotation(organization, make_tenant):
    create(organization, "live")
    env = {"TENANT_INIT_CREDENTIALS__SOURCE": "file", "TENANT_INIT_CREDENTIALS__FILE": str(organization.bundle("live")),
           "TENANT_INIT_HEALTH__STORAGE_INTERVAL": "500ms", "TENANT_INIT_HEALTH__MOUNT_INTERVAL": "500ms"}
    tenant = make_tenant(None, env=env).start().wait_ready()
    assert organization.run("rotate", "live").returncode == 0
    taken = lambda: tenant.status()["services"]["mount"]["restarts_by_cause"].get("keys", 0) == 1  # noqa: E731
    wait_until(lambda: taken() and tenant.ready(), 40, lambda: tenant.log()[-2000:])
    assert organization.run("rotate", "live", "--finish").returncode == 0
    (tenant.mount / "note.md").write_text("after the rotation\n")
    assert tenant.stop().code == 0
    assert (organization.s3.folder / "tenant-live" / "note.md").read_text() == "after the rotation\n"
    check_complete(organization, "live")
