"""Two mounts, one exporter, and everything that can go wrong: no byte is wrong, and every loss is reported.

All run in one process on real sockets. One mount uses TCP, and the other a Unix socket. Half of the handles are used by
tasks of trio, and half by workers, as the FUSE loop does. The events follow from the seed, but their timing does not.

    actors    read, write (also through), zero and flush ranges of 512 B to 1 MiB, and open the disk again
    chaos     cuts connections, restarts the exporter, takes the power of the disk, and stalls, delays and
              fails its requests
    checks    every block that is read (tools/meshlab/models/blocks.py), every EIO of a flush, every time-out
              and its bound; at the end, that nothing is left over

With ``--soak S``, other seeds follow for S seconds.
"""

import os
import time
from pathlib import Path

import pytest

from support.cluster_world import simulate

SEEDS = range(1, 13)
#: The calls that have to succeed in each run. With two dozen seeds, 75 to 680 calls succeeded on an idle machine. With
#: the first dozen, 43 to 950 did under a load of four processes for each processor, where reconnecting takes longer and
#: more calls fail fast. If fewer succeed, a mount did not come back between two faults.
CALLS_MIN = 25


@pytest.mark.parametrize("seed", SEEDS)
async def test_no_byte_is_wrong_and_no_loss_untold(tmp_path: Path, seed: int) -> None:
    assert await simulate(seed, tmp_path) > CALLS_MIN


async def test_other_seeds_for_a_while(tmp_path: Path, soak_s: float) -> None:
    end = time.monotonic() + soak_s
    while time.monotonic() < end:
        await simulate(int.from_bytes(os.urandom(4), "little"), tmp_path)
