"""Views of the mesh on the wire: what is sent comes back, and what makes no sense is left out or refused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshfs import limits
from meshfs.mesh_view import (
    DiskView,
    MountView,
    ReachView,
    SeenView,
    ViewExchange,
    decode_exchange,
    decode_view,
    encode_exchange,
    encode_view,
    only_known,
)

DISKS = (DiskView("nvme-1", 1 << 40, "instance"), DiskView("wwn-0x5000", 512, ""))
VIEW = MountView(DISKS, (ReachView("n1", "connected", 2, 2), ReachView("n2", "down", 0, 1, "no route to host")))


def test_a_view_comes_back() -> None:
    assert decode_view(encode_view(VIEW)) == VIEW
    assert decode_view(encode_view(MountView())) == MountView()


def test_an_exchange_comes_back() -> None:
    exchange = ViewExchange(DISKS, (SeenView("n2", 1.5, VIEW, ("nvme-1",)), SeenView("n3", 0.0, MountView())))
    assert decode_exchange(encode_exchange(exchange)) == exchange


@pytest.mark.parametrize("data", [b"", b"[]", b"5", b"nonsense", b"\xff", b"[" * 100_000, b"{"])
def test_what_is_no_object_is_refused(data: bytes) -> None:
    for decode in (decode_view, decode_exchange):
        with pytest.raises(ValueError, match=r"."):
            decode(data)


def test_entries_that_make_no_sense_are_left_out() -> None:
    long = "x" * 5000
    disks = [{}, {"id": 5}, {"id": long}, {"id": "good", "instance": long}, {"id": "d", "size_bytes": "big"}, 7]
    reach = [{}, {"exporter": long}, {"exporter": "n1", "state": "down", "why": long, "paths": "two"}, None]
    view = decode_view(json.dumps({"disks": disks, "reach": reach, "newer": 1}).encode())
    assert view == MountView((DiskView("d", 0, ""),), (ReachView("n1", "down", 0, 0, "x" * 200),))


def test_the_numbers_of_disks_and_exporters_are_bounded() -> None:
    disks = [{"id": f"disk{number}"} for number in range(limits.DISKS_PER_NODE_MAX + 5)]
    reach = [{"exporter": f"n{number}"} for number in range(limits.VIEW_EXPORTERS_MAX + 5)]
    view = decode_view(json.dumps({"disks": disks, "reach": reach}).encode())
    assert (len(view.disks), len(view.reach)) == (limits.DISKS_PER_NODE_MAX, limits.VIEW_EXPORTERS_MAX)


def test_the_largest_view_is_within_its_bound() -> None:
    disks = tuple(DiskView("nvme-" + "x" * 200 + str(number), 1 << 50, "y" * 100) for number in range(1024))
    assert len(encode_view(MountView(disks))) < limits.VIEW_MAX_BYTES


def test_disks_that_the_asking_node_may_not_know_of_are_left_out() -> None:
    assert only_known(VIEW, {"nvme-1"}).disks == DISKS[1:]
    assert only_known(VIEW, set()) is VIEW


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(("disks", "views", "reach", "id", "x")), inner),
)


@given(JSON)
def test_no_json_raises_anything_but_a_value_error(value: object) -> None:
    data = json.dumps(value).encode()
    for decode in (decode_view, decode_exchange):
        try:
            decode(data)
        except ValueError:
            assert not isinstance(value, dict)
