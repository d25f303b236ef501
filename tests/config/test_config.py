"""A wrong configuration on the real binary: exit 78, everything at once, no secret anywhere."""

import os
import subprocess

SECRET = "tsec_4f1d0c6b8a2e"


def run(binary, tmp_path, config="", env=None):
    """`tenant-init run` with a TOML file and nothing else of the surroundings; it must end by itself."""
    file = tmp_path / "tenant-init.toml"
    file.write_text(config)
    variables = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "LANG": "C.UTF-8", **(env or {})}
    argv = [binary, "run", "--config", str(file), "--", "true"]
    return subprocess.run(argv, env=variables, capture_output=True, text=True, timeout=30)


def shown(done):
    return done.stdout + done.stderr


def test_every_mistake_is_listed_with_its_key_and_source(binary, tmp_path):
    config = '[mount]\npaht = "/x"\nnconnect = 99\n[limits]\nstop_timeout = "1s"\n'
    done = run(binary, tmp_path, config, {"TENANT_INIT_MOUNT__WRITE_BACK": "soon", "TENANT_INIT_MOUNT_PATH": "/x"})
    assert done.returncode == 78, shown(done)
    for part in [
        "5 errors",
        "tenant-init.toml line 2): is unknown, did you mean `mount.path`?",
        "mount.nconnect",
        "tenant-init.toml line 3)",
        "limits.stop_timeout",
        "mount.write_back (environment variable TENANT_INIT_MOUNT__WRITE_BACK)",
        "did you mean `TENANT_INIT_MOUNT__PATH`?",
    ]:
        assert part in done.stderr, f"{part!r} is not in:\n{done.stderr}"


def test_a_secret_in_the_file_is_refused_with_directions_and_not_shown(binary, tmp_path):
    done = run(binary, tmp_path, f'[storage]\nsecret_access_key = "{SECRET}"\n')
    assert done.returncode == 78, shown(done)
    assert "AWS_SECRET_ACCESS_KEY_FILE" in done.stderr
    assert SECRET not in shown(done)


def test_a_secret_in_the_wrong_variable_is_not_shown(binary, tmp_path):
    names = ["LOG__LEVEL", "MOUNT__WRITE_BACK", "APP__PORT", "HEALTH__LISTEN", "MOUNT__PATH", "APP__USER", "STORAGE__ENDPOINT"]
    done = run(binary, tmp_path, env={f"TENANT_INIT_{name}": f"{SECRET} /+" for name in names})
    assert done.returncode == 78, shown(done)
    assert SECRET not in shown(done)


def test_missing_credentials_are_all_named(binary, tmp_path):
    done = run(binary, tmp_path)
    assert done.returncode == 78, shown(done)
    for name in ["BUCKET_NAME", "AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]:
        assert name in shown(done)


def test_a_broken_bundle_is_named_and_not_shown(binary, tmp_path):
    bundle = tmp_path / "bundle.json"
    bundle.write_text(f'{{"version": 1, "storage": {{"bucket": "{SECRET}", "secret": "{SECRET}"}}}}')
    bundle.chmod(0o600)
    done = run(binary, tmp_path, f'[credentials]\nfile = "{bundle}"\n')
    assert done.returncode == 78, shown(done)
    assert str(bundle) in shown(done) and "storage.endpoint" in shown(done)
    assert SECRET not in shown(done)


def test_a_bundle_for_another_tenant_is_refused(binary, tmp_path):
    bundle = tmp_path / "bundle.json"
    storage = '{"bucket": "notes", "endpoint": "http://127.0.0.1:9", "access_key_id": "a", "secret_access_key": "b"}'
    bundle.write_text(f'{{"version": 1, "tenant_id": "other", "storage": {storage}}}')
    bundle.chmod(0o600)
    done = run(binary, tmp_path, f'[credentials]\nfile = "{bundle}"\n[tenant]\nid = "acme"\n')
    assert done.returncode == 77, shown(done)
    assert "another tenant" in shown(done)
