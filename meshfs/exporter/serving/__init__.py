"""The exporter's top floor accepts connections, and moves frames between their sockets and the commands.

listener.py accepts connections, and doorstep.py keeps them until they send something. For one connection, link.py
receives, outlet.py sends, and engine.py handles each frame.
"""
