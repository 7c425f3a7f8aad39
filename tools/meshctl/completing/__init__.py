"""Completion of command lines in shells: the modules find the words that may follow."""
