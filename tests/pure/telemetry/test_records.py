"""Records read what writers of this version write, and no other document makes them fail."""

import types
from collections.abc import Iterator
from typing import Any, Union, get_args, get_origin, get_type_hints, is_typeddict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshfs.telemetry import documents, exporter_documents, exporter_records, mount_records
from meshfs.telemetry.records import BUCKETS, Entry, Record

WRITTEN: list[tuple[type[Record], Any]] = [
    (mount_records.MountRecord, documents.MountStatus),
    (mount_records.ReloadRecord, documents.ReloadOutcome),
    (exporter_records.ExporterRecord, exporter_documents.ExporterStatus),
    (exporter_records.FlowsDiskRecord, exporter_documents.DiskFlows),
    (exporter_records.FlowPolicyRecord, exporter_documents.FlowItem),
]
VALUES = st.sampled_from([None, True, 5, -1, 1e300, float("nan"), "text", [], {}, [1], [{}], [[]], {"p50": "late"}])


def example(hint: Any) -> Any:
    """Return a value of that type that is not read as empty."""
    if is_typeddict(hint):
        return {name: example(of) for name, of in get_type_hints(hint).items()}
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is list:
        return [example(arguments[0])] * BUCKETS
    if origin is dict:
        return {"name": example(arguments[1])}
    if origin in (Union, types.UnionType):
        return example(arguments[0])
    return {str: "text", int: 7, float: 1.5, bool: True}[hint]


def entries(kind: type[Record]) -> Iterator[tuple[str, Entry[Any]]]:
    for each in kind.__mro__:
        yield from ((name, entry) for name, entry in vars(each).items() if isinstance(entry, Entry))


def read_whole(record: Record) -> Any:
    """Return everything that a record has, as the document would have it."""
    return {entry.key: plain(getattr(record, name)) for name, entry in entries(type(record))}


def plain(value: Any) -> Any:
    if isinstance(value, Record):
        return read_whole(value)
    return [plain(each) for each in value] if isinstance(value, list) else value


def differences(read: Any, written: Any, where: str) -> Iterator[str]:
    if isinstance(read, dict):
        for key, value in read.items():
            yield from differences(value, written.get(key, "nothing"), f"{where}.{key}")
    elif isinstance(read, list) and isinstance(written, list):
        yield from (line for each in zip(read, written, strict=True) for line in differences(*each, where))
    elif read != written:
        yield f"{where} is read as {read!r} and written as {written!r}"


@pytest.mark.parametrize(("kind", "document"), WRITTEN)
def test_every_name_of_a_record_is_in_the_document_with_that_type(kind: type[Record], document: Any) -> None:
    written = example(document)
    assert list(differences(read_whole(kind(written)), written, kind.__name__)) == []


@pytest.mark.parametrize(
    "kind", [mount_records.MountRecord, exporter_records.ExporterRecord, exporter_records.FlowsRecord]
)
def test_nothing_in_a_document_makes_a_record_fail(kind: type[Record]) -> None:
    names = st.sampled_from([entry.key for _, entry in entries(kind)])
    objects = st.dictionaries(names, VALUES, max_size=3)

    @given(VALUES | st.dictionaries(names, VALUES | st.lists(objects, max_size=3), max_size=5))
    def check(document: object) -> None:
        read_whole(kind(document))

    check()


def test_what_is_missing_or_of_another_type_reads_as_empty() -> None:
    disk = mount_records.MountDiskRecord({"name": 5, "size_bytes": "much", "present": 1, "io": []})
    assert (disk.name, disk.size_bytes, disk.present, disk.io.reads) == ("", None, False, None)
    assert (mount_records.MountRecord(None).disks, mount_records.MountRecord({"disks": [1, {}]}).disks[0].id) == (
        [],
        "",
    )
