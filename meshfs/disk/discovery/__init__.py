"""Find out what is at a path: its size, its identity, and what else on this machine uses it.

An exporter must not serve a device that is mounted or part of an array, and must tell a replaced disk from the old one.
"""
