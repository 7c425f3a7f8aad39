"""The initiator's top floor: one port for each disk, which stays attached to it while sessions come and go.

port.py and handle.py are what the file system calls. A `SharedOpen` keeps the open of one class at the exporter, opens
it again after a loss, and says what became of each request.
"""
