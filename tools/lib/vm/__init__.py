"""The parts of tools/guest: a QEMU guest with Debian's 6.12 kernel, whose root is this machine's root.

The guest's root is an overlay of three layers. The lowest is this machine's `/`, read-only over virtio-9p. Above it are
the files of a few Debian packages that are not installed here (the kernel's modules, mdadm, cifs-utils). A tmpfs on top
takes the guest's writes. So this machine's Python, virtual environments and programs work unchanged in the guest, while
disks, SCSI hosts, md arrays and cifs mounts belong to the guest.
"""
