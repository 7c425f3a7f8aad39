"""Handles the commands of SMB2, each in its own module. Every request first passes the gate.

gate.py checks what is the same for all commands, and table.py finds the handler. Each handler checks the body, and
calls the open that the request names. No command knows the kinds of opens.
"""
