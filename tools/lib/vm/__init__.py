"""A QEMU guest with Debian's 6.12 kernel, whose root is this machine's root: what tools/guest consists of.

The guest sees this machine's `/` read-only over virtio-9p, with a tmpfs above it that takes what it writes, and
between the two the files of a few Debian packages (the kernel's modules, mdadm, cifs-utils) which are not installed
here. So this machine's Python, its virtual environments and its programs work in the guest as they are, while disks,
SCSI hosts, md arrays and cifs mounts are the guest's own.
"""
