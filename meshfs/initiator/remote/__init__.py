"""The initiator's third floor: one remote exporter, over all paths that lead to it.

`RemoteExporter` (exporter.py) keeps its session and plans which channels there should be. Its other modules are one
part of that each: dialing, keeping a path, failing fast, and the state that a status document shows.
"""
