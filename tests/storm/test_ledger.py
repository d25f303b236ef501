"""The judge of the storms: it must find what is missing, and must not cry about what was cut short."""

import json

import pytest

from storm import ledger
from storm.client import body
from storm.writer import digest

OLD, NEW = b"old words\n", b"new words\n"


def told(*entries):
    return ledger.read([json.dumps(entry) for entry in ({"look": 1}, *entries)])


def put(number, name, data, op="replace", **more):
    return {"begin": number, "op": op, "name": name, "size": len(data), "sha": digest(data), **more}


def found(story, bucket):
    return ledger.differences(story, bucket.get)


WRITTEN = [put("1", "a", OLD), {"ok": "1"}]


@pytest.mark.parametrize("bucket", [{}, {"a": NEW}, {"a": OLD[:3]}, {"a": b""}])
def test_an_acknowledged_write_must_be_there(bucket):
    assert found(told(*WRITTEN), {"a": OLD}) == []
    assert len(found(told(*WRITTEN), bucket)) == 1


@pytest.mark.parametrize("end", [[], [{"error": "2", "code": "EIO"}], [{"look": 2}]])
def test_a_replace_that_was_cut_short_leaves_either(end):
    story = told(*WRITTEN, put("2", "a", NEW), *end)
    assert found(story, {"a": OLD}) == found(story, {"a": NEW}) == []
    assert len(found(story, {})) == len(found(story, {"a": b""})) == 1


def test_a_new_file_that_was_cut_short_may_be_anything_but_an_append_keeps_what_was_there():
    assert found(told(put("1", "a", NEW, op="write")), {"a": NEW[:2]}) == found(told(put("1", "a", NEW, op="write")), {}) == []
    story = told(*WRITTEN, put("2", "a", OLD + NEW, op="append", before=len(OLD)))
    assert found(story, {"a": OLD}) == found(story, {"a": OLD + NEW[:3]}) == found(story, {"a": OLD + NEW}) == []
    assert len(found(story, {"a": NEW})) == len(found(story, {})) == 1


def test_a_rename_that_was_cut_short_leaves_the_file_in_one_of_two_places():
    story = told(*WRITTEN, put("2", "a", OLD, op="rename", to="b"))
    assert found(story, {"a": OLD}) == found(story, {"b": OLD}) == []
    assert any("neither" in words for words in found(story, {}))


def test_the_target_of_a_rename_that_was_cut_short_is_what_it_was_or_a_content_of_the_source():
    story = told(*WRITTEN, put("2", "b", NEW), {"ok": "2"}, put("3", "a", OLD + NEW, op="append", before=len(OLD)), {"ok": "3"},
                 put("4", "a", OLD + NEW, op="rename", to="b"), {"error": "4", "code": "ECONNABORTED"})
    for target in (NEW, OLD, OLD + NEW):
        assert found(story, {"a": OLD + NEW, "b": target}) == []
    assert found(story, {"b": OLD + NEW}) == []
    assert found(story, {"b": OLD}), "the file itself is in neither place"
    assert found(story, {"a": OLD + NEW}) and found(story, {"a": OLD + NEW, "b": b""})


def test_a_deletion_that_was_acknowledged_stays_one():
    story = told(*WRITTEN, {"begin": "2", "op": "delete", "name": "a"}, {"ok": "2"})
    assert found(story, {}) == []
    assert len(found(story, {"a": OLD})) == 1


def test_what_a_reader_sees_must_have_been_written():
    seen = {"seen": "a", "size": len(NEW), "sha": digest(NEW)}
    assert any("nobody wrote" in words for words in found(told(*WRITTEN, seen), {"a": NEW}))
    story = told(*WRITTEN, put("2", "a", NEW), {"look": 2}, seen)
    assert found(story, {"a": NEW}) == []
    assert len(found(story, {"a": OLD})) == 1, "a look narrows what may be"


def test_a_line_that_was_cut_short_is_no_promise():
    story = ledger.read([*(json.dumps(entry) for entry in ({"look": 1}, *WRITTEN)), '{"begin": "2", "op": "dele'])
    assert found(story, {"a": OLD}) == []


def test_a_look_right_after_a_rename_that_failed_tells_nothing_where_rclone_mistakes_the_names():
    target = [put("2", "b", NEW), {"ok": "2"}]
    failed = [put("3", "a", OLD, "rename", to="b"), {"error": "3", "code": "EIO"}, {"seen": "a", "size": len(NEW), "sha": digest(NEW)}]
    lines = [json.dumps(entry) for entry in ({"look": 1}, *WRITTEN, *target, *failed)]
    assert found(ledger.read(lines, fuse=True), {"a": OLD, "b": NEW}) == []
    assert found(ledger.read(lines), {"a": OLD, "b": NEW}), "nfs"
    later = [*lines, json.dumps({"look": 2}), json.dumps(failed[-1])]
    assert found(ledger.read(later, fuse=True), {"a": OLD, "b": NEW}), "in a new life it is wrong"


def test_a_call_that_nobody_heard_has_changed_nothing():
    story = told(*WRITTEN, put("2", "a", NEW), {"refused": "2"})
    assert found(story, {"a": OLD}) == []
    assert len(found(story, {"a": NEW})) == 1


def test_an_answer_that_is_not_what_was_acknowledged_is_found_whatever_is_stored():
    story = told(*WRITTEN, {"misread": "a", "size": 0, "sha": digest(b"")})
    assert len(found(story, {"a": OLD})) == 1


@pytest.mark.parametrize("text", ["---\ntitle: A\n---\n\n# A\none\n\n\ntwo", "# A\none\ntwo\n", "---\ntitle: A\n---\n# A\n\none\ntwo  \n"])
def test_a_note_is_its_lines(text):
    assert body(text) == b"# A\none\ntwo"


@pytest.mark.parametrize("text", ["---\ntitle: A\n---\n\n# A\ntwo\none", "# A\none", "# A\none\ntw", ""])
def test_a_note_that_lacks_a_word_is_another(text):
    assert body(text) != b"# A\none\ntwo"
