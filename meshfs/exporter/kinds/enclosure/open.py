"""Defines the open of an enclosure's file, which gives SES pages and takes control pages.

READ    gives the content that the device had at CREATE, so all READs of an open see one content
WRITE   carries one whole control page to the device. When the device has carried it out, the device is read again.
        Only then is the WRITE answered, so the writer and the advertisement see what the page has changed
CLOSE   is answered when no control page of the open is at the device. So a page never lands after the end of the
        session that sent it
"""

import errno
from collections.abc import Callable, Iterator

from meshfs.enclosure.base import EnclosureReading
from meshfs.errors import StatusError
from meshfs.exporter.exchange.request import Request
from meshfs.exporter.kinds.enclosure.facts import enclosure_facts, reply_to_query
from meshfs.exporter.kinds.kind import Kind
from meshfs.exporter.rules.control_page import check_control_page
from meshfs.exporter.rules.holdings import Resource
from meshfs.exporter.state.offered_enclosure import OfferedEnclosure
from meshfs.exporter.state.open import Open, OwningSession
from meshfs.exporter.state.tree import Tree
from meshfs.smb.constants import AccessMask, Fsctl, NtStatus
from meshfs.smb.info import Change, FileFacts, SetAllocation, SetEndOfFile
from meshfs.smb.messages import FlushResponse, IoctlRequest
from meshfs.smb.status import status_from_errno
from meshfs.smb.wire import READ_DATA_OFFSET, READ_RESPONSE, WRITE_RESPONSE


class EnclosureOpen(Kind):
    """Represents an open of an enclosure's file. ``content`` is None if the open has no right to read."""

    __slots__ = ("_content", "_controls", "_failure", "_then", "_writable", "enclosure")

    def __init__(
        self,
        session: OwningSession[Open],
        tree: Tree,
        file_id: int,
        access: int,
        enclosure: OfferedEnclosure,
        content: bytes | None,
    ) -> None:
        """Count the open. Raise StatusError if the node has too many opens, or too many of them with content."""
        super().__init__(session, tree, file_id, access, enclosure.name, enclosure)
        self.enclosure = enclosure
        self._content = content
        #: The error of the last reading after a control page, which READs are answered with. None after a success.
        self._failure: OSError | None = None
        self._writable = bool(access & (AccessMask.WRITE_DATA | AccessMask.APPEND_DATA))
        #: The WRITEs whose control pages are at the device.
        self._controls: dict[Request, None] = {}
        self._then: list[Callable[[], object]] = []
        if content is not None:
            try:
                session.holdings.take(Resource.CONTENTS)
            except StatusError:
                self._end()
                raise
        enclosure.opens[self] = None

    @property
    def node(self) -> str:
        return self.session.user

    # --- the end of the open -----------------------------------------------------------

    def close(self, then: Callable[[], object]) -> None:
        """Call ``then`` when no control page of the open is at the device any more."""
        if self.gone:
            then()
            return
        self._end_waits(NtStatus.CANCELLED)
        self._then.append(then)
        self.session.keep_closing(self)
        if not self._controls:
            self._finish()

    def _finish(self) -> None:
        then, self._then = self._then, []
        self.session.forget_closing(self)
        del self.enclosure.opens[self]
        if self._content is not None:
            self.session.holdings.give_back(Resource.CONTENTS)
        self._end()
        for call in then:
            call()

    def outstanding(self) -> Iterator[tuple[object, int]]:
        yield from super().outstanding()
        for request in self._controls:
            yield request, request.message.channel_sequence

    def is_outstanding(self, each: object) -> bool:
        return each in self._controls or super().is_outstanding(each)

    # --- content -----------------------------------------------------------------------

    def read(self, request: Request, offset: int, length: int, minimum: int) -> None:
        if self._failure is not None:
            raise StatusError(
                status_from_errno(self._failure.errno or errno.EIO),
                f"enclosure {self.name} could not be read after a control page: {self._failure}",
            )
        if self._content is None:
            raise StatusError(NtStatus.ACCESS_DENIED, "the open has no right to read")
        data = self._content[offset : offset + length]
        if len(data) < minimum or (length and not data):
            raise StatusError(NtStatus.END_OF_FILE, f"fewer bytes than wanted are left at {offset}")
        request.reply(READ_RESPONSE.pack(17, READ_DATA_OFFSET, 0, len(data), 0, 0) + data)

    def write(self, request: Request, offset: int, start: int, length: int, flags: int) -> None:
        """Send a control page to the device, and answer when the device has carried it out and was read again."""
        if not self._writable:
            raise StatusError(NtStatus.ACCESS_DENIED, "the open has no right to write")
        page = bytes(request.message.view[start : start + length])
        check_control_page(page, offset)
        self.session.holdings.take(Resource.CONTROLS)
        self._controls[request] = None

        def carried_out(error: OSError | None) -> None:
            if error is None:
                self.enclosure.read(read_again)
            else:
                request.fail(status_from_errno(error.errno or errno.EIO))
                self._answered(request)

        def read_again(result: EnclosureReading | OSError) -> None:
            self._take(result)
            request.reply(WRITE_RESPONSE.pack(17, 0, length, 0, 0, 0))
            self._answered(request)

        self.enclosure.device.control(page, carried_out)

    def _take(self, result: EnclosureReading | OSError) -> None:
        """Keep the reading that followed a control page. The page was carried out, even if the reading has failed."""
        if self._content is None:
            return
        if isinstance(result, OSError):
            self._failure = result
        else:
            self._failure, self._content = None, result.content

    def _answered(self, request: Request) -> None:
        del self._controls[request]
        self.session.holdings.give_back(Resource.CONTROLS)
        if self.closing and not self._controls:
            self._finish()

    def flush(self, request: Request) -> None:
        """Answer at once. A control page was carried out before its WRITE was answered, so nothing is left to flush."""
        request.reply(FlushResponse().pack())

    # --- information -------------------------------------------------------------------

    @property
    def _size_bytes(self) -> int:
        return self.enclosure.info.size_bytes if self._content is None else len(self._content)

    def file_facts(self, request: Request) -> FileFacts:
        return enclosure_facts(request, self.enclosure, self._size_bytes)

    def set_info(self, request: Request, change: Change) -> None:
        """Accept a truncation by a program that is about to write, without effect. The pages have their own size."""
        match change:
            case SetEndOfFile() | SetAllocation() if not self._writable:
                raise StatusError(NtStatus.ACCESS_DENIED, "the open has no right to write")
            case SetEndOfFile(size_bytes) if size_bytes not in (0, self._size_bytes):
                raise StatusError(NtStatus.INVALID_PARAMETER, "an enclosure's file has the size of its pages")
            case SetEndOfFile() | SetAllocation():
                return
            case _:
                super().set_info(request, change)

    def ioctl(self, request: Request, body: IoctlRequest) -> None:
        if body.ctl_code == Fsctl.MESHFS_QUERY_ENCLOSURES:
            reply_to_query(request, body, self, [self.enclosure])
        else:
            super().ioctl(request, body)
