"""Defines the open of a disk. `io.py` has its hot path, `open.py` has the rest, and `create.py` makes the open."""
