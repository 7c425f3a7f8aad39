"""Find out which device or image is at a path: its size, its identity, and its other users on this machine.

An exporter must not serve a device that is mounted or part of an array. It must also notice that a disk was replaced.
"""
