"""The kinds of opens: what a client can open at the exporter, and how each kind answers what it is asked.

`kind.py` has the base of all kinds, which refuses everything, and `registry.py` says which kind a CREATE makes. Below
are the disk, the root of a share of disks, the pipe of IPC$, and the files of the scratch share. The commands stand
above the kinds and ask them; the kinds know requests, but no command.
"""
