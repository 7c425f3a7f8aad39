"""The common parts of all commands of this product.

command.py handles the standard streams and exit statuses. control.py answers requests at a process's control socket,
and control_client.py sends them.
"""
