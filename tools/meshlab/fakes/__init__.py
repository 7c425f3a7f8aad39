"""Fake disks, ports, exporters and mounts, for tests without sockets, devices or FUSE."""
