"""The disks that a node offers, as backends of its exporter.

base.py defines the interfaces of a disk and of an engine. engines/ passes reads and writes to the kernel. file/ serves
an image file or a block device as a disk. discovery/ finds out which device or image is at a path. Callers check
offsets and queue requests before they submit them here. So this folder knows nothing of scheduling or SMB.
"""
