"""The program of a mount: it shows the disks that the exporters announce, and serves their I/O.

program      the command: options, exit status, background
process      the life of the process: mount, serve, reload, unmount
mount        composition root; mesh (disks), status (document), in_force (config) are its parts
settings, options, exporters     what a mount is told, and what it needs of the initiator
"""
