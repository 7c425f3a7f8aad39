"""Connections that carry bytes between the two ends, and the sockets that wait for them.

base.py says what both ends may expect of a connection, stream.py is one over TCP or a Unix socket, out_queue.py
keeps what waits to be sent on one, and listening.py makes listening sockets. Nothing here knows SMB.
"""
