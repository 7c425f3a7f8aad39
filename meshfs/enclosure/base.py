"""Declares what every enclosure of a machine does: it gives its pages, and carries out a control page."""

from dataclasses import dataclass
from typing import Protocol

from meshfs.enclosure_info import EnclosureInfo, EnclosureKind


@dataclass(frozen=True, slots=True)
class EnclosureReading:
    """Holds what one look at an enclosure found.

    ``content`` has the pages one after the other, as the enclosure's file gives them (`meshfs.ses.build.bundle`). They
    are exactly the bytes that the enclosure sent, also if one of them is malformed. A page that is shorter than its own
    length field says is left out, because the pages after it could not be found. ``info`` says what the pages mean.
    Its ``node`` is empty and its ``access`` is preliminary, because an enclosure does not know who asks. Its
    ``changed_ns`` is 0, because one look does not know what was different before.
    """

    content: bytes
    info: EnclosureInfo


class Enclosure(Protocol):
    """Declares the methods of an enclosure. They may block, and must not be called by two threads at once."""

    @property
    def id(self) -> str:
        """Return the stable name in /mesh/enclosure/by-id."""

    @property
    def name(self) -> str:
        """Return the name of the enclosure's file in the share."""

    @property
    def kind(self) -> EnclosureKind: ...

    def read(self) -> EnclosureReading:
        """Return all pages, as they are now. Raises OSError if the device does not answer or went away."""

    def poll(self) -> EnclosureReading:
        """Return the present state as `read` does, at less cost if little changed since the last reading.

        If nothing changed, this may be the last reading itself. Its pages other than the status may be older.
        """

    def control(self, page: bytes) -> None:
        """Carry out an enclosure control page (SES-3 6.1.3), and change only what the page selects.

        Raises OSError if the page is refused: EINVAL for a wrong length, a wrong page code, or malformed elements, and
        ESTALE for another generation than the enclosure has now. Nothing is changed then. Raises OSError also if the
        device does not answer or went away.
        """

    def close(self) -> None:
        """Release the device."""
