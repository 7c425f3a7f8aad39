"""Interfaces of Linux that Python's os module lacks: system calls, tables of /proc, netlink and systemd.

Each module covers one interface of the kernel or of systemd, and its header names the manual page. libc.py loads the
C library once for all of them. This layer stands below the event loop and imports nothing of disks or of SMB.
"""
