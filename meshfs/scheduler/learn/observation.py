"""The window: the measurements of a disk over a short time, from which the cost model and the depth control learn."""

from dataclasses import dataclass


@dataclass(slots=True)
class Observation:
    """Holds the measurements of a disk over 0.1 s to 1 s. All times are in seconds.

    elapsed_s   the length of the window
    busy_s      the part of the window with at least one request at the disk
    saturated   all through the window, the disk had as many requests as were allowed. Whenever a request was
                done, another request was waiting to take its place
    counts      the number of completions, indexed by Op. Those of ZERO and DISCARD are 0
    sizes       the bytes of these completions, indexed by Op
    latency_s   the mean time at the disk of the completed requests
    longest_s   the longest time at the disk of a completed request
    depth       the depth during the whole window, or 0 if something else limited the requests at the disk
    gave_way    the system left a part of the depth to applications. A larger depth would undo that
    held_back   at some time a request waited because the depth, or the budget, was reached
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
