"""An I/O engine whose results come from the test."""

from meshfs.disk.base import Done

# (kind, offset, length, dsync) of a queued call
Call = tuple[str, int, int, bool]


class ScriptedEngine:
    """Records all calls. ``answer`` completes the oldest unanswered call, or the newest one."""

    name = "scripted"

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self._open: list[tuple[Call, Done]] = []

    @property
    def buffered(self) -> "ScriptedEngine":
        return self

    def queue_read(self, fd: int, address: int, length: int, offset: int, done: Done) -> None:
        self._record(("read", offset, length, False), done)

    def queue_write(self, fd: int, address: int, length: int, offset: int, done: Done, *, dsync: bool) -> None:
        self._record(("write", offset, length, dsync), done)

    def queue_fdatasync(self, fd: int, done: Done) -> None:
        self._record(("sync", 0, 0, False), done)

    def queue_fallocate(self, fd: int, mode: int, offset: int, length: int, done: Done) -> None:
        self._record((f"fallocate {mode}", offset, length, False), done)

    def queue_discard(self, fd: int, offset: int, length: int, done: Done) -> None:
        self._record(("discard", offset, length, False), done)

    def _record(self, call: Call, done: Done) -> None:
        self.calls.append(call)
        self._open.append((call, done))

    def flush(self) -> None:
        """Do nothing: a recorded call counts as submitted already."""

    def answer(self, result: int | None = None, *, newest: bool = False) -> None:
        call, done = self._open.pop(-1 if newest else 0)
        done(call[2] if result is None else result)

    @property
    def unanswered(self) -> list[Call]:
        return [call for call, _ in self._open]

    async def run(self) -> None:
        """Do nothing: only ``answer`` completes calls."""

    def close(self) -> None:
        """Do nothing: there is nothing to free."""
