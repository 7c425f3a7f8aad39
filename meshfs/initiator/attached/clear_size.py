"""Decide how many bytes an owner is asked to zero or to discard at once, so that no call comes near its bound. Pure."""

from meshfs import limits


class ClearSize:
    """Holds the number of bytes to ask for next. It doubles if the owner is quick, and halves if the owner is slow."""

    __slots__ = ("bytes",)

    def __init__(self) -> None:
        self.bytes = limits.ZERO_PIECE_BYTES

    def took(self, took_s: float, io_timeout_s: float) -> None:
        """Note that a call of the present size took ``took_s``."""
        if took_s > io_timeout_s / 8:
            self.bytes = max(self.bytes // 2, limits.ZERO_PIECE_MIN_BYTES)
        elif took_s < io_timeout_s / 100:
            self.bytes = min(self.bytes * 2, limits.ZERO_REQUEST_MAX_BYTES)

    def timed_out(self) -> None:
        """Note that a call timed out. The same size would time out again."""
        self.bytes = limits.ZERO_PIECE_MIN_BYTES
