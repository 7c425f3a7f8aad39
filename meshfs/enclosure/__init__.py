"""Serves the enclosures of a machine: where their pages come from, and which disk is in which slot.

    base         what every enclosure does
    virtual      an enclosure without a SES device: the bays of a node, or a folder of images
    bays         which disk is in which slot of a virtual enclosure
    directory    which files of a folder are images

An enclosure does blocking I/O. The exporter calls it in threads, each with a time limit.
"""
