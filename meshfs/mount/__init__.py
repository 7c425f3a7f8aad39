"""The program of a mount shows the disks that the exporters announce, and serves their I/O.

program      the command: options, exit status, background
process      the life of the process: mount, serve, reload, unmount
mount        the composition root of mesh (disks), status (document) and in_force (config)
settings, options, exporters     the settings of a mount, and the methods of the initiator that it uses
"""
