"""An honest session, with the mount's own initiator: it reads and writes 4 KiB at a time, compares, and is timed.

    python -m meshlab.attack.honest --config C --node n2 --disk n1/disk0 --seconds 5 [--rest-ms 2] [--writes 0.2]

The session first fills its part of the disk with zeros. A block that it wrote later contains the block's number and how
often the session wrote it; every other block is zero. The session makes one call at a time, with a short pause after
each, like a program that waits for its data. The process prints `ready` after the first call. At the end, and for each
SIGUSR1, it prints one line of JSON about the calls since the line before. A call in progress counts with the time that
it has taken so far.

A stall delays only one call, because the session makes no other call meanwhile. A stall of seconds would then be one
sample among thousands. A call that takes longer than the wanted interval between calls therefore also stands for the
calls that it prevented: a call of 1 s at an interval of 10 ms counts as 100 calls of 1 s, 0.99 s, 0.98 s, ...
"""

import argparse
import json
import random
import signal
import struct
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from meshfs import limits
from meshfs.cluster.config import Config, load
from meshfs.cluster.config_nodes import disk_id
from meshfs.cluster.keys import Keyring
from meshfs.initiator.attached.handle import Handle
from meshfs.initiator.initiator import Initiator
from meshfs.model import IoClass
from meshlab.attack.base import end_with_starter

BLOCK_BYTES: Final = 4 * limits.KIB
#: How many blocks of the disk a session uses. Its first block is number `area * BLOCKS`, so that sessions with
#: different areas do not share blocks.
BLOCKS: Final = 1024
#: The wanted interval between two calls; see above.
INTERVAL_S: Final = 0.01
#: At the start, the initiator has to connect to the exporter within this time.
CONNECT_S: Final = 30.0


@dataclass(frozen=True)
class Settings:
    """Holds the settings that an initiator gets."""

    config: Config
    node: str
    keyring: Keyring
    io_timeout_s: float


class Honest:
    """Keeps the session's calls, their latencies, and what the session found wrong."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._random = random.Random(options.seed)
        self._written = [0] * BLOCKS
        self._unknown: set[int] = set()
        self.latencies_s: list[float] = []
        self._told = False
        #: The time at which the call in progress began, or None if no call is in progress.
        self._called_s: float | None = None
        self.errors: Counter[str] = Counter()
        self.wrong = 0
        self.over = False

    async def run(self) -> None:
        config = load(self._options.config)
        node = self._options.node
        initiator = Initiator(Settings(config, node, Keyring(config, node), config.cluster.io_timeout_s))
        async with trio.open_nursery() as nursery:
            await nursery.start(initiator.run)
            handle = await self._open(initiator)
            await self._zero(handle)
            end_s = time.monotonic() + self._options.seconds
            while not self.over and time.monotonic() < end_s:
                await self._call(handle)
                if not self._told:
                    self._told = True
                    print("ready", flush=True)
                await trio.sleep(self._options.rest_ms / 1000)
            await handle.close()
            nursery.cancel_scope.cancel()

    async def _open(self, initiator: Initiator) -> Handle:
        owner, _, name = self._options.disk.partition("/")
        with trio.fail_after(CONNECT_S):
            while True:
                try:
                    return await initiator.port(disk_id(owner, name)).open(IoClass.APP, writable=True)
                except KeyError:
                    # The exporter has not advertised the disk yet.
                    await trio.sleep(0.02)

    async def _zero(self, handle: Handle) -> None:
        """Fill the session's blocks with zeros, because an earlier session may have written to them."""
        await handle.write(self._offset(0), bytes(BLOCKS * BLOCK_BYTES))

    async def _call(self, handle: Handle) -> None:
        number = self._random.randrange(BLOCKS)
        writes = self._random.random() < self._options.writes
        start_s = self._called_s = time.monotonic()
        try:
            if writes:
                self._written[number] += 1
                await handle.write(self._offset(number), self._block(number))
            else:
                data = await handle.read(self._offset(number), BLOCK_BYTES)
                self.wrong += number not in self._unknown and data != self._block(number)
        except OSError as error:
            self.errors[error.strerror or str(error)] += 1
            if writes:
                # The failed write may still be executed, now or later. The block's content is unknown from here on.
                self._unknown.add(number)
        self._called_s = None
        self.latencies_s.append(time.monotonic() - start_s)

    def _offset(self, number: int) -> int:
        return int(self._options.area * BLOCKS + number) * BLOCK_BYTES

    def _block(self, number: int) -> bytes:
        times = self._written[number]
        return struct.pack("<QQ", number, times) * (BLOCK_BYTES // 16) if times else bytes(BLOCK_BYTES)

    def report(self) -> str:
        """Return the figures of the calls since the last report, as one line of JSON."""
        latencies_s, self.latencies_s = self.latencies_s, []
        errors, self.errors = self.errors, Counter()
        wrong, self.wrong = self.wrong, 0
        if self._called_s is not None:
            latencies_s.append(time.monotonic() - self._called_s)
        return json.dumps({**figures(latencies_s), "errors": dict(errors), "wrong": wrong})


def figures(latencies_s: list[float], interval_s: float = INTERVAL_S) -> dict[str, float]:
    """Return the number of calls, and percentiles in milliseconds that also count the calls that a stall prevented."""
    wanted: list[float] = []
    for latency in latencies_s:
        wanted.append(latency)
        missed = latency - interval_s
        while missed > interval_s:
            wanted.append(missed)
            missed -= interval_s
    wanted.sort()

    def percentile(share: float) -> float:
        return round(wanted[min(int(share * len(wanted)), len(wanted) - 1)] * 1000, 3) if wanted else 0.0

    return {"calls": len(latencies_s), "p50_ms": percentile(0.5), "p99_ms": percentile(0.99), "worst_ms": percentile(1)}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m meshlab.attack.honest", description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--node", required=True)
    parser.add_argument("--disk", required=True, metavar="NODE/NAME")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--area", type=int, default=0, help="which part of the disk the session uses")
    parser.add_argument("--rest-ms", type=float, default=2.0, help="pause between two calls, in milliseconds")
    parser.add_argument("--writes", type=float, default=0.2, help="share of the calls that are writes, from 0 to 1")
    parser.add_argument("--seed", type=int, default=1)
    honest = Honest(parser.parse_args())

    def stop(number: int, frame: object) -> None:
        honest.over = True

    signal.signal(signal.SIGTERM, stop)
    end_with_starter()
    signal.signal(signal.SIGUSR1, lambda number, frame: print(honest.report(), flush=True))
    trio.run(honest.run)
    print(honest.report(), flush=True)


if __name__ == "__main__":
    main()
