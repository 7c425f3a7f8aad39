"""QUERY_DIRECTORY (MS-SMB2 3.3.5.18): the files of a directory that match a pattern, a page at a time.

Nothing is kept from one request to the next but the place in the directory, so that a listing costs its open no memory.
Comparing names with a pattern takes time (`LISTING_STEP_S`), which must not be everybody's:

    it has found some      answered with these when its time is over; the initiator asks for the rest
    it has found none      goes asynchronous, and on in later turns of its node, until it finds one or is at the end
"""

from collections.abc import Iterator
from math import inf
from typing import Final

from meshfs import limits
from meshfs.errors import StatusError
from meshfs.exporter import scratch_files
from meshfs.exporter.directory import DOT, DOT_DOT, FILES, Directory, Position
from meshfs.exporter.opens import ScratchOpen
from meshfs.exporter.query import disk_facts, facts_of, volume_serial
from meshfs.exporter.request import Request
from meshfs.exporter.turns import ProcessorFlow
from meshfs.model import IoClass
from meshfs.smb.constants import AccessMask, NtStatus, QueryDirectoryFlags
from meshfs.smb.info import DirectoryPacker, FileFacts, NamePattern, dot_entries, is_directory_class
from meshfs.smb.messages import QueryDirectoryRequest, QueryDirectoryResponse

_RESTART: Final = QueryDirectoryFlags.RESTART_SCANS | QueryDirectoryFlags.REOPEN


def query_directory(request: Request) -> None:
    body = QueryDirectoryRequest.unpack(request.message.body)
    opened = request.find_open(*body.file_id)
    request.check_charge(body.output_bytes_max)
    directory = opened.directory
    if directory is None:
        raise StatusError(NtStatus.INVALID_PARAMETER, "QUERY_DIRECTORY of a file")
    if not opened.access & AccessMask.READ_DATA:
        raise StatusError(NtStatus.ACCESS_DENIED, "open has no right to list")
    if not is_directory_class(body.info_class):
        raise StatusError(NtStatus.INVALID_INFO_CLASS, f"directory class {body.info_class}")
    first = directory.pattern is None or bool(body.flags & _RESTART)
    if first:
        if not body.pattern:
            raise StatusError(NtStatus.OBJECT_NAME_INVALID, "QUERY_DIRECTORY without a pattern")
        newest = opened.volume.last_index if isinstance(opened, ScratchOpen) else 0
        directory.begin_listing(NamePattern(body.pattern), newest)
    _Page(request, body, directory, first=first).begin()


class _Page:
    """One answer in the making. It is work of the processor (`processor.Work`) where it takes long."""

    __slots__ = (
        "_at_end", "_directory", "_first", "_flow", "_given_up", "_packer", "_pattern", "_position", "_request",
        "_single",
    )  # fmt: skip

    def __init__(self, request: Request, body: QueryDirectoryRequest, directory: Directory, *, first: bool) -> None:
        assert directory.pattern is not None
        self._request = request
        self._directory = directory
        self._pattern = directory.pattern
        self._position = directory.position
        self._packer = DirectoryPacker(body.info_class, body.output_bytes_max)
        self._single = bool(body.flags & QueryDirectoryFlags.RETURN_SINGLE_ENTRY)
        self._first = first
        self._at_end = False
        self._given_up = False

    def begin(self) -> None:
        """Answer it, or go on later."""
        request, processor = self._request, self._request.peer.exporter.processor
        # Without a reactor there is nobody else.
        until_s = inf if processor.loop is None else processor.clock() + limits.LISTING_STEP_S
        if self._look(until_s):
            self._answer()
            return
        # In the middle of a compound it waits without an interim reply: the replies leave together.
        if request.compound is None or request.compound.is_last(request):
            request.wait(self._abort)
        flow = processor.turns.flow((request.session.user, request.tree.io_class or IoClass.APP))
        processor.ready(self, flow)
        self._flow = flow

    def step(self, until_s: float) -> ProcessorFlow | None:
        """Go on. Returns the flow in which the rest waits, None where it is answered."""
        if self._given_up or self._request.peer.closed:
            return None
        try:
            if self._request.open.closing:
                raise StatusError(NtStatus.FILE_CLOSED, "the directory was closed meanwhile")
            if not self._look(until_s):
                return self._flow
            self._answer()
        except StatusError as error:
            self._request.fail(error.status)
        return None

    def _abort(self) -> None:
        """It is cancelled, or its connection is lost."""
        self._given_up = True

    def _look(self, until_s: float) -> bool:
        """Look at files until that time, at one at least. Returns whether the page is done."""
        packer, clock = self._packer, self._request.peer.exporter.processor.clock
        for position, facts in self._entries():
            if facts is not None and not packer.add(facts):
                return True
            self._position = position
            if facts is not None and self._single:
                return True
            if until_s != inf and clock() >= until_s:
                return bool(packer.packed)
        self._at_end = True
        return True

    def _answer(self) -> None:
        packer = self._packer
        if not packer.packed:
            if not self._at_end:
                raise StatusError(NtStatus.INFO_LENGTH_MISMATCH, "not even one entry fits")
            raise StatusError(NtStatus.NO_SUCH_FILE if self._first else NtStatus.NO_MORE_FILES, "nothing to list")
        if self._directory.pattern is self._pattern:
            # No listing was begun anew meanwhile.
            self._directory.position = self._position
        self._request.reply(QueryDirectoryResponse(bytes(packer.data)).pack())

    def _entries(self) -> Iterator[tuple[Position, FileFacts | None]]:
        """What comes next, in its order, and where each stands; None of what does not match."""
        pattern, start = self._pattern, self._position
        if start < DOT_DOT:
            dots = dot_entries(facts_of(self._request, self._request.open))
            for position, facts in zip((DOT, DOT_DOT), dots, strict=True):
                if start < position:
                    yield position, facts if pattern.matches(facts.name) else None
        yield from self._files(start[1] if start[0] == FILES else None)

    def _files(self, after: str | None) -> Iterator[tuple[Position, FileFacts | None]]:
        """The files behind that folded name."""
        request, pattern, newest = self._request, self._pattern, self._directory.newest
        opened = request.open
        if isinstance(opened, ScratchOpen):
            serial = volume_serial(request)
            for key, file in opened.file.children_after(after):
                listed = file.index_number <= newest and pattern.matches(file.name)
                yield (FILES, key), scratch_files.facts(file, file.name, serial) if listed else None
            return
        for disk in request.peer.exporter.shares.visible(request.session.user):
            key = disk.name.casefold()
            if after is None or key > after:
                yield (FILES, key), disk_facts(request, disk) if pattern.matches(disk.name) else None
