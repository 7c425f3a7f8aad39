"""The exporter's top floor: it accepts connections, and moves frames between their sockets and the commands.

listener.py accepts, doorstep.py lets connections wait until they may come in, link.py receives for one connection,
outlet.py sends, and engine.py handles each frame.
"""
