"""What a node may have at an exporter, in total and at one disk."""

import pytest

from meshfs import limits
from meshfs.errors import StatusError
from meshfs.exporter.rules.holdings import NODE_MOST, TARGET_MOST, Holdings, Resource
from meshfs.smb.constants import NtStatus

OPENS, LOCKS = Resource.OPENS, Resource.LOCKS


def make(node_most: int = 5, target_most: int = 3) -> tuple[Holdings, list[str]]:
    refusals: list[str] = []
    holdings = Holdings("n2", refusals.append, dict.fromkeys(Resource, node_most), dict.fromkeys(Resource, target_most))
    return holdings, refusals


def test_a_node_has_so_many_at_one_disk_and_so_many_in_all():
    holdings, refusals = make()
    for disk in ("disk0", "disk0", "disk0", "disk1"):
        holdings.take(OPENS, disk)
    with pytest.raises(StatusError, match=r"3 opens of at most 3 at one disk") as caught:
        holdings.take(OPENS, "disk0")
    assert caught.value.status == NtStatus.INSUFFICIENT_RESOURCES
    holdings.take(OPENS)
    with pytest.raises(StatusError, match=r"node n2 has 5 opens of at most 5"):
        holdings.take(OPENS, "disk1")
    assert len(refusals) == 2
    assert (holdings.used(OPENS), holdings.used(OPENS, "disk0"), holdings.used(OPENS, "disk1")) == (5, 3, 1)
    assert holdings.used(LOCKS) == 0


def test_what_is_refused_is_not_counted():
    holdings, _ = make()
    holdings.take(LOCKS, "disk0", 2)
    with pytest.raises(StatusError):
        holdings.take(LOCKS, "disk0", 2)
    with pytest.raises(StatusError):
        holdings.take(LOCKS, "disk1", 4)
    assert (holdings.used(LOCKS), holdings.used(LOCKS, "disk0"), holdings.used(LOCKS, "disk1")) == (2, 2, 0)


def test_what_could_not_begin_is_not_counted():
    holdings, _ = make()

    def begin() -> None:
        raise StatusError(NtStatus.INTERNAL_ERROR, "no")

    with pytest.raises(StatusError, match="no"):
        holdings.take_for(begin, OPENS, "disk0")
    assert holdings.is_empty
    assert holdings.take_for(lambda: 7, OPENS, "disk0") == 7
    assert holdings.used(OPENS, "disk0") == 1


def test_a_check_counts_nothing():
    holdings, refusals = make(node_most=1)
    holdings.check(OPENS)
    assert holdings.is_empty
    holdings.take(OPENS)
    with pytest.raises(StatusError):
        holdings.check(OPENS)
    assert len(refusals) == 1


def test_all_that_is_given_back_leaves_nothing():
    holdings, _ = make()
    holdings.take(LOCKS, "disk0", 2)
    holdings.take(OPENS)
    holdings.give_back(LOCKS, "disk0")
    assert not holdings.is_empty
    holdings.give_back(LOCKS, "disk0")
    holdings.give_back(OPENS)
    assert holdings.is_empty


def test_what_a_node_has_is_reported_with_its_limit():
    holdings, _ = make()
    assert list(holdings.report()) == []
    holdings.take(LOCKS, "disk0", 2)
    holdings.take(OPENS)
    reported = [(str(resource), used, most) for resource, used, most in holdings.report()]
    assert reported == [("opens", 1, 5), ("byte-range locks", 2, 5)]


def test_each_kind_of_thing_has_a_limit_and_that_of_one_disk_leaves_room_for_others():
    assert set(NODE_MOST) == set(Resource)
    for resource, most in TARGET_MOST.items():
        assert most <= NODE_MOST[resource] // 2
    assert limits.OPENS_PER_SESSION_MAX <= limits.OPENS_PER_NODE_MAX // 2
    assert limits.LOCKS_PER_OPEN_MAX <= limits.LOCKS_PER_NODE_AND_DISK_MAX
