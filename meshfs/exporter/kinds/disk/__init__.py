"""Has the open of a disk. `io.py` is its hot path, `open.py` has the rest, and `create.py` makes the open."""
