"""A start on a disk with unsent files, while the bucket goes away: the files are what they were, whenever rclone can upload them."""

import contextlib
import os

from lib.faultproxy import FaultProxy
from lib.wait import wait_until


def test_unsent_files_are_whole_after_a_start_during_an_outage(make_tenant, s3_server):
    with FaultProxy(s3_server.port) as bucket:
        env = {"AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{bucket.port}"}
        expected = {f"folder-{number % 3}/note {number}.md": f"note {number}\n" * (1 + 40 * number) for number in range(30)}
        tenant = make_tenant(s3_server, env=env).start().wait_ready()
        for name in expected:
            (tenant.mount / name).parent.mkdir(exist_ok=True)
            assert os.listdir((tenant.mount / name).parent) == []  # known from now on
        bucket.status(503)
        for name, text in expected.items():
            (tenant.mount / name).write_text(text)
        tenant.kill()
        bucket.ok()

        away = bucket.before_next(b"prefix=folder-2", bucket.refuse)
        again = make_tenant(s3_server, env=env).start()
        assert away.wait(30)
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: not again.process.running() or again.ready(), 4)
            assert not again.process.running(), "it was ready without its bucket"
        bucket.ok()
        # A start that gave up is made again by the platform. It was the bucket, unless that is back by the time it is asked.
        wait_until(lambda: not again.process.running() or again.ready(), 60)
        if not again.process.running():
            assert again.wait().code in (69, 71), again.log()[-3000:]
            again = make_tenant(s3_server, env=env).start().wait_ready()
        assert {name: len((again.mount / name).read_text()) for name in expected} == {name: len(text) for name, text in expected.items()}
        for name in expected:
            with open(again.mount / name, "a") as f:
                f.write("appended\n")
            expected[name] += "appended\n"
        assert again.stop().code == 0
        assert {name: s3_server.read(name) for name in s3_server.objects()} == expected


def test_an_unsent_file_is_there_although_the_bucket_was_away_when_rclone_started(make_tenant, s3_server):
    """rclone uploads it and makes no entry of it in its directory."""
    with FaultProxy(s3_server.port) as bucket:
        env = {"AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{bucket.port}"}
        tenant = make_tenant(s3_server, env=env).start().wait_ready()
        (tenant.mount / "folder").mkdir()
        assert os.listdir(tenant.mount / "folder") == []  # known from now on
        bucket.status(503)
        (tenant.mount / "folder/note.md").write_text("acknowledged\n")
        tenant.kill()
        bucket.ok()
        # The entry of the file's directory is made after this request.
        away = bucket.before_next(b"max-keys=1000&prefix= ", bucket.refuse)
        again = make_tenant(s3_server, env=env).start()
        assert away.wait(30)
        wait_until(lambda: "failed to reload item" in again.log(), 30, lambda: again.log()[-2000:])
        bucket.ok()
        again.wait_ready()
        assert (again.mount / "folder/note.md").read_text() == "acknowledged\n"
        assert again.stop().code == 0
        assert s3_server.read("folder/note.md") == "acknowledged\n"
