"""Describes an address at which an exporter can be reached. It comes from the config or from the exporter itself."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Remote:
    """Describes one address of an exporter. Speed and index are 0 until the exporter has advertised them."""

    address: str
    speed_bits_s: int = 0
    index: int = 0
    rdma: bool = False
