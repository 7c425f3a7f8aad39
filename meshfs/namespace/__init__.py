"""The contents of a mount: the catalog of known disks, and the tree of files and folders made from it. Pure.

This package does not depend on FUSE or SMB, so the tree can be tested alone and shown by any front end.
"""
