"""Contains a module for each kind of open that a client can make at the exporter. Each kind answers its requests.

`kind.py` has the base of all kinds, which refuses everything. `registry.py` says which kind a CREATE makes. The kinds
are the disk, the root of a share of disks, the pipe of IPC$, and the files of the scratch share. The commands are above
the kinds and call them. The kinds know requests, but no command.
"""
