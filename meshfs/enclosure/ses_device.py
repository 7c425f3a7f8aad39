"""A SCSI enclosure services device of this machine, behind its node /dev/sgN.

found = find_ses_devices()                                   which devices there are (sysfs)
claim = claimed_id(each, each.logical_id or read_logical_id(each.path), node)
ids = distinct_ids([(each, claim), ...], held)               one id for each
device = SesDevice(ids[each.address].id, each.path, ...)
reading = device.read()
disks = read_disk_ports()
occupants(reading.view, disks, read_slot_links(each, disks)) the disks in each slot
"""

import errno
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from meshfs import limits
from meshfs.enclosure.base import EnclosureReading
from meshfs.enclosure.describe import describe, refused
from meshfs.enclosure.ses_pages import PAGES, Exchange, PagesRead, ScsiPort, read_pages
from meshfs.enclosure_info import EnclosureKind
from meshfs.errors import EnclosurePageError, OutdatedPageError
from meshfs.linux.scsi_generic import CheckCondition, ScsiGeneric
from meshfs.ses.configuration import Configuration, parse_configuration
from meshfs.ses.page import PageCode
from meshfs.ses.slots import EnclosurePages, EnclosureView, read_slots
from meshfs.ses.status import parse_control, parse_status

#: After these errors the device node leads nowhere. A device that comes back may have another node.
_GONE: Final = (errno.ENODEV, errno.ENXIO)
#: The bits of a slot's element that change when a disk is put in or taken out: SWAP and the status code.
_PRESENCE: Final = 0x1F


@dataclass(frozen=True, slots=True)
class SesReading(EnclosureReading):
    """Holds what one look at a SES device found. ``view`` has its slots with the addresses of their disks.

    ``view`` is None if the configuration or the status is missing or malformed.
    """

    view: EnclosureView | None = None


@dataclass(frozen=True, slots=True)
class _Last:
    """Holds the last reading with the pages that it was made of, and the time from which on it is too old."""

    read: PagesRead
    reading: SesReading
    note: str
    too_old_at: float


class SesDevice:
    """Is the `Enclosure` of a SES device."""

    kind = EnclosureKind.SES

    def __init__(
        self,
        enclosure_id: str,
        path: Path | None,
        logical_id: int | None = None,
        open_port: Callable[[Path], ScsiPort] = ScsiGeneric,
        clock: Callable[[], float] = time.monotonic,
        note: str = "",
    ) -> None:
        """Open nothing yet.

        ``path`` is None if the device has no node. Then each call fails, and the error says what to do.
        ``logical_id`` is the one that the device had when ``enclosure_id`` was made of it. If another one answers at
        ``path`` later, the device counts as removed. None accepts any. ``note`` is a remark for people, which the
        properties of the enclosure contain.
        """
        self.id = self.name = enclosure_id
        self.path = path
        self.note = note
        self._logical_id = logical_id
        self._open_port = open_port
        self._clock = clock
        self._port: ScsiPort | None = None
        self._lengths: dict[int, int] = {}
        self._last: _Last | None = None

    def read(self) -> SesReading:
        """Return all pages, as they are now. Raises OSError if the device does not answer or went away."""
        with self._exchange() as exchange:
            return self._read_all(exchange)

    def poll(self) -> SesReading:
        """Return the present state of the enclosure with only one command, as long as little changes.

        Only the status page is read, if its generation is that of the last reading and no slot was filled or emptied
        since. All other pages are those of the last reading. If the status page is also the same, the last reading
        itself is returned. Raises OSError if the device does not answer or went away.
        """
        with self._exchange() as exchange:
            last = self._last
            if last is None or last.reading.view is None or self._clock() >= last.too_old_at:
                return self._read_all(exchange)
            try:
                status = exchange.page(PageCode.STATUS)
                if not _slots_are_filled_as(last.reading.view, status):
                    return self._read_all(exchange)
            except EnclosurePageError:
                return self._read_all(exchange)
            if status != last.read.pages[PageCode.STATUS] or self.note != last.note:
                read = PagesRead(last.read.pages | {PageCode.STATUS: status}, last.read.problems)
                self._last = last = replace(last, read=read, reading=self._reading(read), note=self.note)
            return last.reading

    def control(self, page: bytes) -> None:
        """Send an enclosure control page to the device, after a check against its present configuration.

        Raises OSError: EINVAL if the page is malformed, or the device does not accept it, and ESTALE if it belongs to
        another configuration. Nothing is changed then. Raises OSError also if the device does not answer.
        """
        with self._exchange() as exchange:
            self._check(page, self._configuration(exchange))
            try:
                exchange.send(page)
            except CheckCondition as error:
                if error.is_unsupported:
                    # The configuration may have changed since it was read. Then the page is outdated, not malformed.
                    self._check(page, self._configuration(exchange))
                raise

    def close(self) -> None:
        """Close the device node. The next call opens it again."""
        self._last = None
        port, self._port = self._port, None
        if port is not None:
            port.close()

    @contextmanager
    def _exchange(self) -> Iterator[Exchange]:
        """Give a new exchange with the device. Opens the device node if it is not open."""
        if self.path is None:
            raise OSError(errno.ENODEV, "the enclosure has no node /dev/sgN: load the kernel module sg (modprobe sg)")
        if self._port is None:
            self._port = self._open_port(self.path)
        try:
            yield Exchange(self._port, self._lengths, self._clock)
        except OSError as error:
            if error.errno in _GONE:
                self.close()
            raise

    def _read_all(self, exchange: Exchange) -> SesReading:
        read = read_pages(exchange)
        reading = self._reading(read)
        self._last = _Last(read, reading, self.note, self._clock() + limits.SES_FULL_READING_S)
        return reading

    def _reading(self, read: PagesRead) -> SesReading:
        content = read.content
        configuration: Configuration | None = None
        problems = read.problems
        pages = EnclosurePages(*(read.pages.get(code, b"") for code in PAGES[1:]))
        try:
            if pages.configuration:
                configuration = parse_configuration(pages.configuration)
                self._check_identity(configuration)
            if configuration is not None and pages.status:
                view = read_slots(pages)
                info = describe(self.id, self.name, self.kind, view, len(content), read.problems, self.note)
                return SesReading(content, info, view)
        except EnclosurePageError as error:
            problems = [*read.problems, str(error)]
        why = "; ".join(each for each in (*problems, self.note) if each)
        return SesReading(content, refused(self.id, self.name, self.kind, configuration, len(content), why))

    def _configuration(self, exchange: Exchange) -> Configuration:
        try:
            configuration = parse_configuration(exchange.page(PageCode.CONFIGURATION))
        except EnclosurePageError as error:
            raise OSError(errno.EIO, f"no control page can be checked: {error}", str(self.path)) from error
        self._check_identity(configuration)
        return configuration

    def _check(self, page: bytes, configuration: Configuration) -> None:
        """Raise OSError if ``page`` is no control page of ``configuration``."""
        try:
            parse_control(page, configuration)
        except OutdatedPageError as error:
            raise OSError(errno.ESTALE, str(error), str(self.path)) from error
        except EnclosurePageError as error:
            raise OSError(errno.EINVAL, str(error), str(self.path)) from error

    def _check_identity(self, configuration: Configuration) -> None:
        """Raise OSError if another enclosure answers than the one that had this device node before."""
        found = configuration.primary.logical_id
        if self._logical_id is not None and found != self._logical_id:
            raise OSError(errno.ENODEV, f"another enclosure answers, with the logical id {found:#018x}", str(self.path))


def _slots_are_filled_as(view: EnclosureView, status: bytes) -> bool:
    """Return whether the slots have the same status codes on a new status page, and no disk was swapped.

    Raises EnclosurePageError if the page is malformed, or belongs to another configuration.
    """
    elements = parse_status(status, view.configuration)
    return all((elements[slot.place].raw[0] ^ slot.element.raw[0]) & _PRESENCE == 0 for slot in view.slots)


def read_logical_id(path: Path, open_port: Callable[[Path], ScsiPort] = ScsiGeneric) -> int | None:
    """Return the logical id of the enclosure behind a device node, or None if the enclosure has none.

    Return None also if its configuration is malformed. Raises OSError if the device does not answer.
    """
    port = open_port(path)
    try:
        return parse_configuration(Exchange(port, {}).page(PageCode.CONFIGURATION)).primary.logical_id or None
    except EnclosurePageError:
        return None
    except CheckCondition as error:
        if error.is_unsupported:
            return None
        raise
    finally:
        port.close()
