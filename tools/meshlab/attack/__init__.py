"""Nodes and strangers that attack an exporter, each as its own process, and an honest session to measure beside them.

    python -m meshlab.attack create --config cluster.toml --node n3 --to n1 --seconds 5
    python -m meshlab.attack.honest --config cluster.toml --node n2 --disk n1/disk0 --seconds 5

An attack prints the word `ready` when it has reached its full load. It ends after its time or on SIGTERM, and then
prints its counts as one line of JSON. Attack only exporters that you started yourself.
"""
