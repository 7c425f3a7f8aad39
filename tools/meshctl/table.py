"""Tables in the style of lsblk: columns are aligned, sizes are in powers of 1024, and `-` marks an unknown value."""

from collections.abc import Callable, Sequence
from typing import Final

from meshfs.telemetry.fields import printable as printable

UNKNOWN: Final = "-"
_UNITS: Final = "BKMGTPE"
Form = Callable[[float | None], str]


def render(head: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str] = ()) -> str:
    """Return the table as text. Columns named in `right` are aligned to the right."""
    cells = [list(head), *([printable(cell) or UNKNOWN for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    lines = []
    for row in cells:
        padded = [
            cell.rjust(width) if name in right else cell.ljust(width)
            for cell, width, name in zip(row, widths, head, strict=True)
        ]
        lines.append(" ".join(padded).rstrip())
    return "\n".join(lines)


def size(size_bytes: int | None) -> str:
    """Show a size as lsblk does, for example 3.5T."""
    if size_bytes is None or size_bytes < 0:
        return UNKNOWN
    value, unit = float(size_bytes), 0
    while value >= 1023.95 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.1f}".removesuffix(".0") + _UNITS[unit]


def duration(seconds: float | None) -> str:
    """Show a duration, for example 12.3s, 4min 5s, 3h 20min or 12d 3h."""
    if seconds is None or seconds < 0:
        return UNKNOWN
    if seconds < 60:
        return f"{seconds:.1f}s"
    whole = int(seconds)
    for name, unit, lower, lower_unit in (("d", 86400, "h", 3600), ("h", 3600, "min", 60)):
        if whole >= unit:
            return f"{whole // unit}{name} {whole % unit // lower_unit}{lower}"
    return f"{whole // 60}min {whole % 60}s"


def count(value: int | None) -> str:
    return UNKNOWN if value is None else str(value)


def latency(value_ms: float | None) -> str:
    """Show a latency, for example 350us, 4.2ms or 1.3s. The lag of a flow that is ahead is negative."""
    if value_ms is None:
        return UNKNOWN
    absolute = abs(value_ms)
    if absolute < 0.9995:
        return f"{value_ms * 1000:.0f}us".replace("-0us", "0us")
    if absolute < 9.95:
        return f"{value_ms:.1f}ms"
    return f"{value_ms:.0f}ms" if absolute < 999.5 else f"{value_ms / 1000:.1f}s"


def rate(per_s: float | None) -> str:
    """Show the number of events, per second or in an interval, for example 0.3, 42, 31500 or 1.2M."""
    if per_s is None or per_s < 0:
        return UNKNOWN
    if per_s < 9.95:
        return f"{per_s:.1f}".removesuffix(".0")
    return f"{per_s:.0f}" if per_s < 999_999.5 else f"{per_s / 1e6:.1f}M"


def percent(share: float | None) -> str:
    return UNKNOWN if share is None else f"{share * 100:.1f}%"


def bytes_rate(bytes_per_s: float | None) -> str:
    return UNKNOWN if bytes_per_s is None else size(int(bytes_per_s))


def bits_rate(bits_per_s: int | None) -> str:
    """Show a link's speed in powers of 1000, for example 25G or 100M. A speed of 0 stands for an unknown one."""
    if not bits_per_s or bits_per_s < 0:
        return UNKNOWN
    unit, letter = (1e9, "G") if bits_per_s >= 1e9 else (1e6, "M")
    return f"{bits_per_s / unit:g}{letter}"
