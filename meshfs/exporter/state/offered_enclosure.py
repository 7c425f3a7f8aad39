"""Keeps an enclosure on offer with its opens. The exporter reads and controls the enclosure through its device.

A node may open the file of an enclosure many times a second. Reading an enclosure takes some 10 ms, and one device
serves one call after the other. So all CREATEs that came while the device was read wait for the next reading together.
No CREATE gets a reading that began before the CREATE.
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from meshfs import bugs
from meshfs.enclosure.base import EnclosureReading
from meshfs.enclosure_info import EnclosureInfo
from meshfs.model import Access

logger = logging.getLogger(__name__)

ReadingDone = Callable[[EnclosureReading | OSError], None]
ControlDone = Callable[[OSError | None], None]


class EnclosureDevice(Protocol):
    """Declares what the exporter needs of an enclosure's device.

    No call blocks. Each callback is called exactly once, on the exporter's thread, and within a bound: if the device
    does not answer, the callback gets an OSError ETIMEDOUT. Calls are carried out in the order in which they were made.
    """

    def read(self, then: ReadingDone) -> None:
        """Read all pages from the device, and give them to ``then``, or the error if the device could not be read.

        If the reading differs from what is advertised, the owner of the device renews the advertisement
        (`OfferedEnclosure.update`, `OfferedEnclosures.modified`) before it calls ``then``.
        """

    def control(self, page: bytes, then: ControlDone) -> None:
        """Carry out an enclosure control page (`meshfs.enclosure.base.Enclosure.control`).

        Then call ``then`` with None, or with the error if the page was refused or the device has failed.
        """


class OpenOfEnclosure(Protocol):
    """Declares what an enclosure needs of an open."""

    access: int

    @property
    def node(self) -> str:
        """Return the node that has the enclosure open."""

    def close(self, then: Callable[[], object]) -> None:
        """Close the open, and call ``then`` when nothing of it is at the device any more."""


class CreateOfEnclosure(Protocol):
    """Stands for a CREATE that waits for the device, as `meshfs.exporter.kinds.pending_create.PendingCreate` does."""

    def retry(self) -> None:
        """Try the CREATE again. It is refused if the enclosure is no longer offered."""


class OfferedEnclosure:
    """Represents one enclosure on offer. ``allow`` returns the access that the config gives to a node."""

    __slots__ = ("_reading", "_waiting", "allow", "creates", "device", "info", "opens")

    def __init__(self, info: EnclosureInfo, device: EnclosureDevice, allow: Callable[[str], Access]) -> None:
        self.info = info
        self.device = device
        self.allow = allow
        #: All opens, the oldest first. An open that is closing stays until nothing of it is at the device.
        self.opens: dict[OpenOfEnclosure, None] = {}
        #: The CREATEs that wait for a reading.
        self.creates: dict[CreateOfEnclosure, None] = {}
        #: Tells whether the device is being read.
        self._reading = False
        #: The calls that wait for the next reading.
        self._waiting: list[ReadingDone] = []

    @property
    def name(self) -> str:
        return self.info.name

    def access_of(self, node: str) -> Access:
        return self.allow(node)

    def info_for(self, node: str) -> EnclosureInfo:
        """Return what is advertised of the enclosure to the node."""
        return replace(self.info, access=self.access_of(node))

    def update(self, info: EnclosureInfo) -> None:
        """Advertise other facts. The caller must also call `OfferedEnclosures.modified`. The name stays the same."""
        self.info = info

    def read(self, then: ReadingDone) -> None:
        """Call ``then`` with a reading of the device that begins now or later, or with the error of that reading."""
        self._waiting.append(then)
        if not self._reading:
            self._start()

    def _start(self) -> None:
        waiting, self._waiting = self._waiting, []
        self._reading = True

        def done(result: EnclosureReading | OSError) -> None:
            self._reading = False
            for call in waiting:
                try:
                    call(result)
                except Exception as error:
                    # The other calls belong to other connections.
                    bugs.report(logger, f"a reading of enclosure {self.name}", error)
            if self._waiting and not self._reading:
                self._start()

        self.device.read(done)
