"""The disks that a node offers, as backends of its exporter.

base.py says what a disk and an engine are. engines/ carry reads and writes to the kernel, file/ makes a disk of an
image file or a block device, and discovery/ finds out what lies at a path. Offsets are checked and requests are queued
before they come here: this floor knows no flows and no SMB.
"""
