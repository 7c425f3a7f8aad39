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
from dataclasses import dataclass
from pathlib import Path

from meshfs.enclosure.base import EnclosureReading
from meshfs.enclosure.describe import describe, refused
from meshfs.enclosure.ses_pages import PAGES, Exchange, PagesRead, ScsiPort, read_pages
from meshfs.enclosure_info import EnclosureKind
from meshfs.errors import EnclosurePageError, OutdatedPageError
from meshfs.linux.scsi_generic import CheckCondition, ScsiGeneric
from meshfs.ses.configuration import Configuration, parse_configuration
from meshfs.ses.page import PageCode
from meshfs.ses.slots import EnclosurePages, EnclosureView, read_slots
from meshfs.ses.status import parse_control

#: After these errors the device node leads nowhere. A device that comes back may have another node.
_GONE = (errno.ENODEV, errno.ENXIO)


@dataclass(frozen=True, slots=True)
class SesReading(EnclosureReading):
    """Holds what one look at a SES device found. ``view`` has its slots with the addresses of their disks.

    ``view`` is None if the configuration or the status is missing or malformed.
    """

    view: EnclosureView | None = None


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

    def read(self) -> SesReading:
        """Return all pages, as they are now. Raises OSError if the device does not answer or went away."""
        with self._exchange() as exchange:
            return self._reading(read_pages(exchange))

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

    def _reading(self, read: PagesRead) -> SesReading:
        content = read.content
        configuration: Configuration | None = None
        why = "; ".join(read.problems)
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
            why = "; ".join([*read.problems, str(error)])
        return SesReading(content, refused(self.id, self.name, self.kind, configuration, len(content), why))

    def _configuration(self, exchange: Exchange) -> Configuration:
        try:
            configuration = parse_configuration(exchange.page(PageCode.CONFIGURATION))
        except EnclosurePageError as error:
            raise OSError(errno.EIO, f"no control page can be checked: {error}", str(self.path)) from error
        self._check_identity(configuration)
        return configuration

    def _check(self, page: bytes, configuration: Configuration) -> None:
        """Raises OSError if ``page`` is no control page of ``configuration``."""
        try:
            parse_control(page, configuration)
        except OutdatedPageError as error:
            raise OSError(errno.ESTALE, str(error), str(self.path)) from error
        except EnclosurePageError as error:
            raise OSError(errno.EINVAL, str(error), str(self.path)) from error

    def _check_identity(self, configuration: Configuration) -> None:
        """Raises OSError if another enclosure answers than the one that had this device node before."""
        found = configuration.primary.logical_id
        if self._logical_id is not None and found != self._logical_id:
            raise OSError(errno.ENODEV, f"another enclosure answers, with the logical id {found:#018x}", str(self.path))


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
