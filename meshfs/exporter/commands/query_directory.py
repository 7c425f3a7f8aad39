"""Answers QUERY_DIRECTORY with the files that match a pattern, a page at a time (MS-SMB2 3.3.5.18).

Only the place in the directory is kept from one request to the next, so a listing costs its open no memory. While
names are compared with a pattern, no other request is served. So a request stops after `LISTING_STEP_S`:

    it has found some files   The request is answered with these files, and the initiator asks for the rest.
    it has found none         The request becomes asynchronous, and goes on in later turns of its node. It is answered
                              when it has found a file, or is at the end.
"""

from collections.abc import Iterator
from math import inf
from typing import Final

from meshfs import limits
from meshfs.errors import StatusError
from meshfs.exporter.exchange.request import Request
from meshfs.exporter.exchange.waiting import wait
from meshfs.exporter.kinds.kind import Kind, find_open
from meshfs.exporter.state.directory import BEGINNING, DOT, DOT_DOT, FILES, DirectoryState, Position
from meshfs.exporter.state.processor_flow import ProcessorFlow
from meshfs.model import FlowKey, IoClass
from meshfs.smb.constants import NtStatus, QueryDirectoryFlags
from meshfs.smb.info import DirectoryPacker, FileFacts, NamePattern, dot_entries, is_directory_class
from meshfs.smb.messages import QueryDirectoryRequest, QueryDirectoryResponse

_RESTART: Final = QueryDirectoryFlags.RESTART_SCANS | QueryDirectoryFlags.REOPEN
#: The number of files between two looks at the clock, which take 5 ms at most. Otherwise a busy machine would make
#: pages of one file.
_LOOK_AFTER: Final = 16


def query_directory(request: Request) -> None:
    body = QueryDirectoryRequest.unpack(request.message.body)
    opened = find_open(request, *body.file_id)
    request.check_charge(body.output_bytes_max)
    directory = opened.as_listable()
    if not is_directory_class(body.info_class):
        raise StatusError(NtStatus.INVALID_INFO_CLASS, f"directory class {body.info_class} is not supported")
    page = _Page(request, opened, body, directory)
    directory.pages.append(page)
    if len(directory.pages) == 1:
        page.begin()


class _Page:
    """Makes the answer to one QUERY_DIRECTORY. If that takes long, the page is work of the processor (`Work`).

    The pages of one open are made one after the other, because each begins where the page before has ended.
    """

    __slots__ = (
        "_at_end",
        "_begun",
        "_body",
        "_directory",
        "_first",
        "_given_up",
        "_opened",
        "_packer",
        "_position",
        "_request",
        "flow",
    )

    def __init__(self, request: Request, opened: Kind, body: QueryDirectoryRequest, directory: DirectoryState) -> None:
        self._request = request
        self._opened = opened
        self._body = body
        self._directory = directory
        self._packer = DirectoryPacker(body.info_class, body.output_bytes_max)
        self._begun = False
        self._first = False
        self._position = BEGINNING
        self._at_end = False
        self._given_up = False
        turns = request.peer.exporter.processor.turns
        self.flow = turns.flow(FlowKey(request.session.user, request.tree.io_class or IoClass.APP))

    def begin(self) -> None:
        """Answer the request, or go on later."""
        request, processor = self._request, self._request.peer.exporter.processor
        # If there is no reactor, no other request waits.
        until_s = inf if processor.loop is None else processor.clock() + limits.LISTING_STEP_S
        if self._advance(until_s):
            return
        try:
            # A request in the middle of a compound sends no interim reply, because its replies are sent together.
            if request.is_last:
                wait(request, self._abort)
        except StatusError:
            self._leave()
            raise
        processor.ready(self, self.flow)

    def step(self, until_s: float) -> ProcessorFlow | None:
        """Go on until ``until_s``. Return the flow in which the page waits, or None if the page is done."""
        return None if self._advance(until_s) else self.flow

    def _abort(self) -> None:
        """Stop at the next step, because the request is cancelled or its connection is lost."""
        self._given_up = True

    def _advance(self, until_s: float) -> bool:
        """Go on until ``until_s``. Return whether the page is done."""
        request = self._request
        if self._given_up or request.peer.closed:
            self._leave()
            return True
        try:
            if self._opened.closing:
                raise StatusError(NtStatus.FILE_CLOSED, "the directory was closed meanwhile")
            if not self._begun:
                self._begin_listing()
            if not self._look(until_s):
                return False
            self._check_found()
        except StatusError as error:
            self._leave()
            request.fail(error.status)
            return True
        self._directory.position = self._position
        self._leave()
        request.reply(QueryDirectoryResponse(bytes(self._packer.data)).pack())
        return True

    def _leave(self) -> None:
        """Let the next page of the open begin. This comes before the answer, which may begin another page itself."""
        pages = self._directory.pages
        pages.remove(self)
        if pages:
            self._request.peer.exporter.processor.ready(pages[0], pages[0].flow)

    def _begin_listing(self) -> None:
        directory, body = self._directory, self._body
        self._begun = True
        self._first = directory.pattern is None or bool(body.flags & _RESTART)
        if self._first:
            if not body.pattern:
                raise StatusError(NtStatus.OBJECT_NAME_INVALID, "the QUERY_DIRECTORY has no pattern")
            directory.begin_listing(NamePattern(body.pattern), self._opened.newest_entry())
        self._position = directory.position

    def _look(self, until_s: float) -> bool:
        """Look at files until that time, but at a minimum number. Return whether the page is done."""
        packer, clock = self._packer, self._request.peer.exporter.processor.clock
        single = bool(self._body.flags & QueryDirectoryFlags.RETURN_SINGLE_ENTRY)
        for looked, (position, facts) in enumerate(self._entries(), 1):
            if facts is not None and not packer.add(facts):
                return True
            self._position = position
            if facts is not None and single:
                return True
            if looked % _LOOK_AFTER == 0 and clock() >= until_s:
                return bool(packer.packed)
        self._at_end = True
        return True

    def _check_found(self) -> None:
        """Raise StatusError if no file was found."""
        if self._packer.packed:
            return
        if not self._at_end:
            raise StatusError(NtStatus.INFO_LENGTH_MISMATCH, "not even one entry fits")
        raise StatusError(
            NtStatus.NO_SUCH_FILE if self._first else NtStatus.NO_MORE_FILES, "no more files match the pattern"
        )

    def _entries(self) -> Iterator[tuple[Position, FileFacts | None]]:
        """Yield the next entries, each with its place. None stands for a file that is not listed."""
        pattern, start = self._directory.pattern, self._position
        assert pattern is not None
        if start < DOT_DOT:
            dots = dot_entries(self._opened.file_facts(self._request))
            for position, facts in zip((DOT, DOT_DOT), dots, strict=True):
                if start < position:
                    yield position, facts if pattern.matches(facts.name) else None
        after = start[1] if start[0] == FILES else None
        for key, entry in self._opened.entries(self._request, pattern, after, self._directory.newest):
            yield (FILES, key), entry
