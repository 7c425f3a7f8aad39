"""Keeps the state of the exporter, which is what it remembers between requests.

From top to bottom: the peers (one per connection), the exporter, all sessions, one session, one open, and the trees,
disks and directories below. Each module names only modules below it. A module calls the modules above it only through
callables and Protocols that these have handed in.
"""
