"""What the exporter remembers between requests.

From top to bottom: the peers (one per connection), the exporter, all sessions, one session, one open, and the trees,
disks and directories below it. Each module names only what stands below it. What stands above calls in; what has to be
told upwards is a callable or a Protocol that is handed in.
"""
