"""Serves the enclosures of a machine: where their pages come from, and which disk is in which slot.

    base         what every enclosure does
    virtual      an enclosure without a SES device: the bays of a node, or a folder of images
    bays         which disk is in which slot of a virtual enclosure
    directory    which files of a folder are images
    describe     what the pages of an enclosure mean
    ses_device   a SES device of the machine; ses_pages are the commands that it gets
    sysfs        which SES devices the machine has; found has what is found there, and ids gives each its id
    matching     which disk is in which slot of a SES device; vpd has the addresses of a disk

An enclosure does blocking I/O. The exporter calls it in threads, each with a time limit.
"""
