"""Reads the pages of a SES device, and sends it control pages, by SCSI commands (SPC-4 6.27 and 6.42).

ScsiPort      what executes a command; `meshfs.linux.scsi_generic.ScsiGeneric` does it by ioctl
Exchange      a few commands that have one time limit together
read_pages    all pages that the device supports, of one configuration
"""

import errno
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeVar

from meshfs import limits
from meshfs.errors import EnclosurePageError
from meshfs.linux.scsi_generic import CheckCondition
from meshfs.ses.page import HEAD_BYTES, PageCode

#: The pages that meshfs reads, in the order in which the content of an enclosure's file has them.
PAGES: Final = (
    PageCode.SUPPORTED,
    PageCode.CONFIGURATION,
    PageCode.STATUS,
    PageCode.ELEMENT_DESCRIPTOR,
    PageCode.ADDITIONAL_STATUS,
)
_RECEIVE_DIAGNOSTIC: Final = struct.Struct(">BBBHx")
_SEND_DIAGNOSTIC: Final = struct.Struct(">BBxHx")
#: PCV: the command names the page. PF: the data are a page.
_PCV: Final = 0x01
_PF: Final = 0x10
#: The allocation length of RECEIVE DIAGNOSTIC RESULTS has 16 bits. The last bytes of the longest pages cannot be read.
_ALLOCATION_MAX_BYTES: Final = 0xFFFF
#: A page whose length is unknown is asked for with this length. Nearly every page fits in.
_ALLOCATION_FIRST_BYTES: Final = 4096
#: An enclosure that cannot answer now sends this page instead of the one that was asked for (SES-3 6.1.12).
_BUSY_PAGE: Final = 0x09

Given = TypeVar("Given")


class ScsiPort(Protocol):
    """Executes SCSI commands, as `ScsiGeneric` does. Raises OSError, or CheckCondition if the device refuses one."""

    def receive(self, command: bytes, most_bytes: int, timeout_s: float) -> bytes: ...

    def send(self, command: bytes, data: bytes, timeout_s: float) -> None: ...

    def close(self) -> None: ...


class Exchange:
    """Makes a few commands that have SES_TIMEOUT_S together.

    ``lengths`` has the lengths of pages that were read before. The page is then read with one command.
    """

    def __init__(self, port: ScsiPort, lengths: dict[int, int], clock: Callable[[], float] = time.monotonic) -> None:
        self._port = port
        self._lengths = lengths
        self._clock = clock
        self._deadline = clock() + limits.SES_TIMEOUT_S

    def page(self, code: int) -> bytes:
        """Return a page as the device sends it, up to the end that its length field gives.

        Raises EnclosurePageError if the device sends less than that, or another page. Raises OSError if it does not
        answer, and CheckCondition if it refuses.
        """
        length = self._lengths.get(code, _ALLOCATION_FIRST_BYTES)
        received = b""
        for _ in range(limits.SES_PAGE_TRIES_MAX):
            received = self._repeated(self._receive, code, length)
            if received and received[0] != code:
                raise self._other_page(code, received[0])
            own = 4 + int.from_bytes(received[2:4], "big")
            if len(received) >= max(4, own):
                self._lengths[code] = max(own, HEAD_BYTES)
                return received[:own]
            if own > length:
                length = min(own, _ALLOCATION_MAX_BYTES)
        raise EnclosurePageError(
            f"page {code:02x} of the enclosure is malformed: its length field says {own} bytes, but the device sends"
            f" only {len(received)}"
            if len(received) >= 4
            else f"page {code:02x} of the enclosure is malformed: the device sends only {len(received)} bytes of it"
        )

    def send(self, page: bytes) -> None:
        """Send a control page. Raises OSError, and CheckCondition if the device refuses it."""
        command = _SEND_DIAGNOSTIC.pack(0x1D, _PF, len(page))
        self._repeated(lambda timeout_s: self._port.send(command, page, timeout_s))

    def _receive(self, timeout_s: float, code: int, length: int) -> bytes:
        return self._port.receive(_RECEIVE_DIAGNOSTIC.pack(0x1C, _PCV, code, length), length, timeout_s)

    def _repeated(self, command: Callable[..., Given], *arguments: int) -> Given:
        """Make a command, and repeat it while the device only announces events instead of carrying it out."""
        for left in reversed(range(limits.SES_COMMAND_TRIES_MAX)):
            timeout_s = min(limits.SES_COMMAND_TIMEOUT_S, self._deadline - self._clock())
            if timeout_s <= 0:
                break
            try:
                return command(timeout_s, *arguments)
            except CheckCondition as error:
                if not left or not error.may_pass:
                    raise
        raise OSError(errno.ETIMEDOUT, f"the enclosure did not answer all commands within {limits.SES_TIMEOUT_S:g} s")

    def _other_page(self, code: int, received: int) -> Exception:
        if received == _BUSY_PAGE:
            return OSError(errno.EBUSY, "the enclosure reports that it is busy")
        return EnclosurePageError(
            f"page {code:02x} of the enclosure is malformed: the device sends page {received:02x} instead"
        )


@dataclass(slots=True)
class PagesRead:
    """Holds the pages that a device sent, by page code.

    ``problems`` has a sentence for each page that the device should have sent but did not. Such a page is not in
    ``pages``.
    """

    pages: dict[int, bytes] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def content(self) -> bytes:
        """Return all pages one after the other, as an enclosure's file gives them."""
        return b"".join(self.pages[code] for code in PAGES if code in self.pages)

    @property
    def is_of_one_configuration(self) -> bool:
        """Return whether all pages have the same generation. The list of supported pages has none."""
        return len({page[4:HEAD_BYTES] for code, page in self.pages.items() if code != PageCode.SUPPORTED}) <= 1


def read_pages(exchange: Exchange) -> PagesRead:
    """Return all pages that the device supports.

    If the configuration changes between two pages, all are read again, at most SES_READINGS_MAX times. Raises OSError
    if the device does not answer.
    """
    read = PagesRead()
    for _ in range(limits.SES_READINGS_MAX):
        read = _read_once(exchange)
        if read.is_of_one_configuration:
            break
    return read


def _read_once(exchange: Exchange) -> PagesRead:
    read = PagesRead()
    supported = _add(exchange, read, PageCode.SUPPORTED)
    for code in PAGES[1:]:
        if supported is None or code in supported[4:]:
            _add(exchange, read, code)
        elif code in (PageCode.CONFIGURATION, PageCode.STATUS):
            read.problems.append(f"the enclosure does not support page {code:02x}")
    return read


def _add(exchange: Exchange, read: PagesRead, code: int) -> bytes | None:
    """Read a page and add it to ``read``, or add the reason why the device did not send it. Return the page or None."""
    try:
        page = exchange.page(code)
    except EnclosurePageError as error:
        read.problems.append(str(error))
        return None
    except CheckCondition as error:
        if not error.is_unsupported:
            raise
        read.problems.append(f"the enclosure refuses to send page {code:02x}: {error.strerror}")
        return None
    read.pages[code] = page
    return page
