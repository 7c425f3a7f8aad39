"""What a mount shows: the catalog of the disks that are known, and the tree of files and folders made from it. Pure.

Nothing here knows FUSE or SMB, so that the tree can be tested by itself and shown by any front end.
"""
