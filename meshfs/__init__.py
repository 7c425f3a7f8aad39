"""meshfs, a software storage bus: every node sees every disk of every node."""

__version__ = "0.1.0"
