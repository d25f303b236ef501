"""New keys for a running tenant: rotated, revoked, expired. rclone cannot take new keys; the tenant can."""

import datetime
import http.server
import json
import os
import signal
import threading

import pytest

from lib.wait import wait_until

OLD = ("AKIDEXAMPLE", "SECRETEXAMPLE")
NEW = ("AKIDNEWEXAMPLE", "SECRETNEWEXAMPLE")
FAST = {"TENANT_INIT_HEALTH__STORAGE_INTERVAL": "500ms", "TENANT_INIT_HEALTH__MOUNT_INTERVAL": "500ms"}


def bundle(s3, key, **more):
    storage = {"bucket": s3.bucket, "endpoint": s3.endpoint, "region": "auto", "access_key_id": key[0],
               "secret_access_key": key[1]}
    return {"version": 1, "tenant_id": None, "storage": storage, "index": None, "expires_at": None, **more}


def codes(tenant):
    return {reason.split(":")[0] for reason in tenant.status()["reasons"]}


def accept(s3, *keys):
    """The bucket opens for these keys only, as after a change in the provider's console."""
    s3.stop()
    s3.key_id, s3.secret = keys[0]
    s3.start(*[part for key in keys[1:] for part in ("--auth-key", ",".join(key))])


@pytest.fixture
def file(tmp_path):
    """The file of source `file`; `write` replaces it as orchestrators do."""
    path = tmp_path / "bundle.json"

    def write(content):
        fresh = path.with_suffix(".new")
        fresh.touch(0o600)
        fresh.write_text(json.dumps(content))
        os.replace(fresh, path)
        return {"TENANT_INIT_CREDENTIALS__SOURCE": "file", "TENANT_INIT_CREDENTIALS__FILE": str(path), **FAST}

    return write


@pytest.fixture
def tenant_of(make_tenant):
    def make(env, name="tenant"):
        # No key in the variables: the bundle has it.
        return make_tenant(None, name=name, env=env)

    return make


def keys_restarts(tenant):
    return tenant.status()["services"]["mount"]["restarts_by_cause"].get("keys", 0)


def stored(s3, written):
    return all(name in s3.objects() and s3.read(name) == text for name, text in written.items())


def test_a_rotated_file_is_taken_and_no_write_is_lost(make_s3, tenant_of, file):
    s3 = make_s3()
    accept(s3, OLD, NEW)
    tenant = tenant_of(file(bundle(s3, OLD))).start().wait_ready()
    written = {"before.md": "written with the old key\n"}
    (tenant.mount / "before.md").write_text(written["before.md"])
    file(bundle(s3, NEW))
    wait_until(lambda: keys_restarts(tenant) == 1 and tenant.ready(), 40, lambda: tenant.log()[-2000:])
    accept(s3, NEW)
    written["after.md"] = "written with the new key\n"
    (tenant.mount / "after.md").write_text(written["after.md"])
    wait_until(lambda: stored(s3, written), 40, lambda: str(s3.objects()))
    for secret in (*OLD, *NEW):
        assert secret not in tenant.log()
    assert tenant.status()["services"]["mount"]["restarts"] == 1
    assert tenant.stop().code == 0


def test_a_revoked_key_degrades_and_a_new_one_uploads_what_was_written_meanwhile(make_s3, tenant_of, file):
    s3 = make_s3()
    accept(s3, OLD)
    tenant = tenant_of(file(bundle(s3, OLD))).start().wait_ready()
    accept(s3, NEW)
    wait_until(lambda: "storage_rejected" in codes(tenant), 30)
    written = {f"meanwhile-{n}.md": f"acknowledged {n}\n" for n in range(10)}
    for name, text in written.items():
        (tenant.mount / name).write_text(text)
    assert not stored(s3, written)
    file(bundle(s3, NEW))
    wait_until(tenant.ready, 40, lambda: f"{codes(tenant)}\n{tenant.log()[-2000:]}")
    wait_until(lambda: stored(s3, written), 40, lambda: str(s3.objects()))
    assert keys_restarts(tenant) == 1
    assert tenant.stop().code == 0


def test_a_key_that_stays_revoked_ends_in_77_and_names_what_is_kept(make_s3, tenant_of, file):
    s3 = make_s3()
    accept(s3, OLD)
    env = {**file(bundle(s3, OLD)), "TENANT_INIT_LIMITS__REJECTED_LIMIT": "6s"}
    tenant = tenant_of(env).start().wait_ready()
    accept(s3, NEW)
    wait_until(lambda: "storage_rejected" in codes(tenant), 30)
    (tenant.mount / "kept.md").write_text("acknowledged\n")
    ended = tenant.wait(60)
    assert (ended.code, ended.verdict["uploads_pending"]) == (77, ["kept.md"]), ended
    assert "rejected" in ended.verdict["reason"]
    assert tenant.mounts() == []
    # The next start on the same disk, with a key that is accepted, finishes it.
    file(bundle(s3, NEW))
    tenant = tenant_of(env).start().wait_ready()
    wait_until(lambda: s3.objects().get("kept.md") == 13, 30)
    assert tenant.stop().code == 0


def test_a_new_key_that_does_not_open_the_bucket_is_not_taken(make_s3, tenant_of, file):
    s3 = make_s3()
    accept(s3, OLD)
    tenant = tenant_of(file(bundle(s3, OLD))).start().wait_ready()
    file(bundle(s3, NEW))
    wait_until(lambda: "the new key is not taken yet" in tenant.log(), 30)
    (tenant.mount / "fine.md").write_text("stored with the old key\n")
    wait_until(lambda: "fine.md" in s3.objects(), 30)
    assert tenant.ready() and keys_restarts(tenant) == 0
    # Somebody else's bucket is not a rotation.
    other = bundle(s3, OLD)
    other["storage"]["bucket"] = "somebody-elses"
    file(other)
    wait_until(lambda: "another bucket" in tenant.log(), 30)
    assert tenant.ready()
    assert tenant.stop().code == 0


def test_sighup_reads_the_variables_files_again(make_s3, make_tenant, tmp_path):
    s3 = make_s3()
    accept(s3, OLD, NEW)
    key_id, secret = tmp_path / "id", tmp_path / "secret"

    def write(key):
        key_id.write_text(key[0])
        secret.write_text(key[1])

    write(OLD)
    env = {"BUCKET_NAME": s3.bucket, "AWS_ENDPOINT_URL_S3": s3.endpoint, "AWS_ACCESS_KEY_ID_FILE": str(key_id),
           "AWS_SECRET_ACCESS_KEY_FILE": str(secret), **FAST}
    tenant = make_tenant(None, env=env).start().wait_ready()
    write(NEW)
    tenant.process.signal(signal.SIGHUP)
    wait_until(lambda: keys_restarts(tenant) == 1 and tenant.ready(), 40, lambda: tenant.log()[-2000:])
    accept(s3, NEW)
    (tenant.mount / "a.md").write_text("new key\n")
    assert tenant.stop().code == 0
    assert s3.read("a.md") == "new key\n"


def test_a_broker_is_asked_again_before_its_keys_expire(make_s3, make_tenant):
    s3 = make_s3()
    accept(s3, OLD, NEW)
    expires = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=25)
    answers = [bundle(s3, OLD, expires_at=expires.isoformat()), bundle(s3, NEW)]
    asked = []

    class Broker(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(datetime.datetime.now(datetime.UTC))
            body = json.dumps(answers[min(len(asked), len(answers)) - 1]).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Broker)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        env = {"TENANT_CREDENTIALS_URL": f"http://127.0.0.1:{server.server_port}/acme", "TENANT_CREDENTIALS_TOKEN": "tokenexample",
               **FAST}
        tenant = make_tenant(None, env=env).start().wait_ready()
        wait_until(lambda: keys_restarts(tenant) == 1 and tenant.ready(), 60, lambda: tenant.log()[-2000:])
        assert len(asked) == 2 and asked[1] < expires
        assert tenant.stop().code == 0
    finally:
        server.shutdown()
