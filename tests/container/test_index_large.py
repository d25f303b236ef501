"""A knowledge base of two thousand notes that somebody else put into the bucket: indexed, shipped, and restored on a new machine."""

import time

import pytest

from lib.wait import wait_until

NOTES = 2000

pytestmark = pytest.mark.timeout(900)


def test_two_thousand_notes_are_indexed_shipped_and_restored(tenant):
    for number in range(NOTES):
        tenant.s3.put(f"main/notes/Note {number}.md",
                      f"# Note {number}\n\nAbout the okapi {number}.\n\n- [fact] number {number}\n- relates_to [[Note {number // 2}]]\n")
    first = tenant.machine().start().wait_ready(300)
    count = "SELECT count(*) FROM entity"
    wait_until(lambda: tenant.sqld.query(count)[0][0] == NOTES, 800, lambda: f"all are indexed: {tenant.sqld.query(count)}", every=1)
    tenant.wait_same(first, words=("okapi",))
    assert first.stop().code == 0

    begin = time.monotonic()
    second = tenant.machine().start().wait_ready(120)
    print(f"a new machine was ready after {time.monotonic() - begin:.1f} s: {second.events('index_restored')[0]['message']}")
    assert second.finds("okapi", "Note 1999") or second.finds('"okapi 1999"', "Note 1999")
    tenant.wait_same(second, words=("okapi",))
    assert second.stop().code == 0
