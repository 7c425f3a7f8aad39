"""What every command of this product does alike.

command.py treats the standard streams and exit statuses, control.py answers requests at a process's control socket,
and control_client.py asks there.
"""
