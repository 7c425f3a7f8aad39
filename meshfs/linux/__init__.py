"""What this program needs of Linux beyond Python's os module: system calls, tables of proc, sysfs and udev, systemd.

Each module is about one interface of the kernel or of systemd, and its header names the manual page. libc.py loads the
C library once for all of them. This floor stands below the event loop and knows nothing of disks or of SMB.
"""
