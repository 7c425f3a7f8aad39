"""The initiator's top floor: one port for each disk, which stays attached to it while sessions come and go.

port.py and handle.py are what the file system calls. Below them attempts.py sends a request until it is answered, and
goes by what became of it before (outcomes.py). A `SharedOpen` keeps the open of one class at the exporter, and makes
it again after a loss. hang.py asks a disk itself that answers nothing.
"""
