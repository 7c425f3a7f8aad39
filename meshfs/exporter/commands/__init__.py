"""A module for each command of SMB2, and the gate that every request passes first.

gate.py checks what holds for all commands, table.py finds the handler, and each handler checks its body and asks the
open that it concerns. No command knows the kinds of opens.
"""
