"""The open of a disk: `io.py` is its hot path, `open.py` the rest of it, and `create.py` makes it."""
