"""The commands of SMB2, each in a module of its own, and the gate that every request passes first.

gate.py checks what is the same for all commands, and table.py finds the handler. Each handler checks the body, and
calls the open that the request names. No command knows the kinds of opens.
"""
