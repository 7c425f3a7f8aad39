"""What is observed of a disk over a short stretch of time; cost model and depth learn from it."""

from dataclasses import dataclass


@dataclass(slots=True)
class Window:
    """One stretch of observing a disk, 0.1 s to 1 s.

    elapsed_s   its length
    busy_s      of that, with at least one request at the disk
    saturated   the disk never could have had more at once than it had: whenever fewer than
                ``depth`` were there, it was because the queue had nothing to send for less
                than an instant (no time passed below the depth in force)
    counts      completions, indexed by Op (READ, WRITE, FLUSH; ZERO, of which there are none here)
    sizes       bytes of those
    latency_s   mean time at the disk of those completed
    depth       in force during all of it; 0 when it changed, or something else bounded what was at the disk
    longest_s   longest time at the disk of one that completed
    gave_way    the system left a part of the depth to applications: deeper would defeat that
    held_back   something waited at some time because the depth was reached
    """

    elapsed_s: float
    busy_s: float
    saturated: bool
    counts: list[int]
    sizes: list[int]
    latency_s: float
    depth: int
    longest_s: float
    held_back: bool = True
    gave_way: bool = False
