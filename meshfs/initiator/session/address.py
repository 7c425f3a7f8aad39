"""An address at which an exporter can be reached. It comes from the config or from the exporter itself."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Remote:
    """One of the exporter's addresses. Speed and index are 0 until the exporter has advertised them."""

    address: str
    speed_bits_s: int = 0
    index: int = 0
    rdma: bool = False
