"""Nodes and strangers that misbehave, each a process of its own, and an honest session to measure beside them.

    python -m meshlab.attack create --config cluster.toml --node n3 --to n1 --seconds 5
    python -m meshlab.attack.honest --config cluster.toml --node n2 --disk n1/disk0 --seconds 5

An attack prints the word `ready` when it is in full swing, and one line of JSON with its counts when it ends:
after its time, or when it gets SIGTERM. The attacks are for exporters that the caller started.
"""
