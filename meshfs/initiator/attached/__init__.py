"""The initiator's top floor has one port for each disk. A port stays attached to its disk when a session ends.

The file system calls port.py and handle.py. Below them, attempts.py sends a request until it is answered. outcomes.py
says what may have become of an earlier attempt. A `SharedOpen` keeps the open of one class at the exporter, and makes
it again after a loss. hang.py probes a disk that answers nothing.
"""
