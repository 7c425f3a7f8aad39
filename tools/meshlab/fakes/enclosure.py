"""An enclosure in memory with faults on demand: its pages are real SES pages, and a test holds or fails its calls.

device = FakeEnclosureDevice(bays=4)
enclosure = offer_enclosure(exporter, "shelf", device)
device.hold()                       later calls wait
device.release(OSError(...))        the oldest of them is answered, as asked or with an error
"""

import errno
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from meshfs.enclosure.base import EnclosureReading
from meshfs.enclosure_info import EnclosureInfo, EnclosureKind, SlotInfo
from meshfs.errors import EnclosurePageError
from meshfs.exporter.state.exporter import Exporter
from meshfs.exporter.state.offered_enclosure import ControlDone, OfferedEnclosure, ReadingDone
from meshfs.model import Access
from meshfs.ses.build import Bay, bundle, supported_pages, virtual_pages
from meshfs.ses.configuration import ElementPlace, Subenclosure, parse_configuration
from meshfs.ses.status import Lamps, pack_control, parse_control, parse_status

_IDENTITY = Subenclosure(0, 0x5000_0000_0000_0001, "meshlab", "fake shelf", "1")


class FakeEnclosureDevice:
    """Implements EnclosureDevice. ``renew`` gets the facts of each reading before its callback is called.

    reads      the number of readings that were asked for
    controls   the control pages that were carried out
    """

    def __init__(self, bays: int = 4, *, name: str = "shelf", node: str = "n1") -> None:
        self.bays = [Bay(f"bay {number}", number, installed=bool(number % 2)) for number in range(bays)]
        self.generation = 7
        self.name = name
        self.node = node
        self.reads = 0
        self.controls: list[bytes] = []
        self.renew: Callable[[EnclosureInfo], None] = _nobody
        self._holds = False
        self._held: deque[Callable[[OSError | None], None]] = deque()

    # --- faults ------------------------------------------------------------------------

    def hold(self) -> None:
        """Hold every later call until `release`."""
        self._holds = True

    @property
    def held(self) -> int:
        """Return the number of calls that are held now."""
        return len(self._held)

    def release(self, error: OSError | None = None) -> None:
        """Carry out the oldest call that is held, or answer it with ``error`` without carrying it out."""
        self._held.popleft()(error)

    def heal(self) -> None:
        """Hold no more calls, and carry out those that are held."""
        self._holds = False
        while self._held:
            self.release()

    def _carry_out(self, call: Callable[[OSError | None], None]) -> None:
        if self._holds:
            self._held.append(call)
        else:
            call(None)

    # --- the pages ---------------------------------------------------------------------

    def reading(self) -> EnclosureReading:
        """Return the pages as they are now."""
        pages = virtual_pages(_IDENTITY, self.generation, self.bays)
        content = bundle(supported_pages(), pages)
        slots = tuple(SlotInfo(bay.name, bay.name, bay.number, locate=bay.locate, fault=bay.fault) for bay in self.bays)
        info = EnclosureInfo(
            id=f"enc-{self.node}-{self.name}",
            node=self.node,
            name=self.name,
            kind=EnclosureKind.VIRTUAL,
            access=Access.READ_WRITE,
            size_bytes=len(content),
            changed_ns=1_700_000_000_000_000_000,
            slots=slots,
        )
        return EnclosureReading(content, info)

    def control_page(self, bay: int, lamps: Lamps) -> bytes:
        """Return the control page that changes the lamps of one bay."""
        pages = virtual_pages(_IDENTITY, self.generation, self.bays)
        configuration = parse_configuration(pages.configuration)
        status = parse_status(pages.status, configuration)
        return pack_control(configuration, status, {ElementPlace(0, bay): lamps})

    # --- EnclosureDevice ---------------------------------------------------------------

    def read(self, then: ReadingDone) -> None:
        self.reads += 1

        def call(error: OSError | None) -> None:
            if error is not None:
                then(error)
                return
            reading = self.reading()
            self.renew(reading.info)
            then(reading)

        self._carry_out(call)

    def control(self, page: bytes, then: ControlDone) -> None:
        self._carry_out(lambda error: then(error or self._control(page)))

    def _control(self, page: bytes) -> OSError | None:
        pages = virtual_pages(_IDENTITY, self.generation, self.bays)
        if page[4:8] != pages.configuration[4:8]:
            return OSError(errno.ESTALE, "the configuration has changed")
        try:
            changes = list(parse_control(page, parse_configuration(pages.configuration)))
        except EnclosurePageError as error:
            return OSError(errno.EINVAL, str(error))
        self.controls.append(page)
        for place, lamps in changes:
            bay = self.bays[place.number]
            self.bays[place.number] = replace(bay, locate=bool(lamps.locate), fault=bool(lamps.fault))
        return None


def offer_enclosure(
    exporter: Exporter, device: FakeEnclosureDevice, allow: dict[str, Access] | None = None
) -> OfferedEnclosure:
    """Offer the enclosure of a fake device. ``allow`` restricts nodes, also if a test changes it later."""
    rules = {} if allow is None else allow
    enclosure = OfferedEnclosure(device.reading().info, device, lambda node: rules.get(node, Access.READ_WRITE))

    def renew(info: EnclosureInfo) -> None:
        if info != enclosure.info:
            enclosure.update(info)
            exporter.enclosures.modified(enclosure)

    device.renew = renew
    exporter.enclosures.add(enclosure)
    return enclosure


def _nobody(_: EnclosureInfo) -> None:
    """Do nothing, in place of ``renew``, while the enclosure is not offered."""
