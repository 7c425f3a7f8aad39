"""Serves the enclosures of a machine: where their pages come from, and which disk is in which slot.

    base         what every enclosure does

An enclosure does blocking I/O. The exporter calls it in threads, each with a time limit.
"""
