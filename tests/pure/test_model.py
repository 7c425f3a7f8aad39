"""The list of disks that an exporter advertises, and their states."""

import json
from dataclasses import replace

import pytest

from meshfs.model import Access, DiskInfo, DiskState, decode_disks, encode_disks

DISK = DiskInfo("meshfs-n1-disk0", "n1", "disk0", 4096, Access.READ_WRITE, "v")


@pytest.mark.parametrize("state", list(DiskState))
def test_a_state_and_its_reason_travel(state: DiskState) -> None:
    disk = replace(DISK, state=state, why="" if state is DiskState.OK else "read: Input/output error")
    (decoded,) = decode_disks(encode_disks([disk]))
    assert decoded == disk
    assert type(decoded.state) is DiskState


def test_an_older_exporter_tells_no_reason() -> None:
    (item,) = json.loads(encode_disks([DISK]))
    del item["why"]
    assert decode_disks(json.dumps([item]).encode()) == [DISK]


def test_a_state_of_a_newer_exporter_is_a_problem() -> None:
    (item,) = json.loads(encode_disks([DISK]))
    (decoded,) = decode_disks(json.dumps([item | {"state": "rebuilding"}]).encode())
    assert decoded.state is not DiskState.OK
    assert "'rebuilding'" in decoded.why


def test_of_a_list_without_end_only_the_beginning_is_decoded() -> None:
    data = json.dumps([json.loads(encode_disks([DISK]))[0], {"is": "no disk"}]).encode()
    assert decode_disks(data, 1) == [DISK]
    with pytest.raises(ValueError, match="malformed"):
        decode_disks(data, 2)
    for what in (b'{"a": 1}', b"7", b'"text"'):
        with pytest.raises(ValueError, match="malformed"):
            decode_disks(what, 1)
