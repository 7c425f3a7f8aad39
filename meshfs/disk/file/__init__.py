"""Serve an image file or a block device as a disk.

claim.py opens the disk and claims it, and disk.py serves it. Each other module is one part of serving:

    directio.py                alignment
    zero.py                    zeroing
    merge.py                   writes of parts of blocks
    transfer.py                short results
    write_order.py             the order of writes
    losses.py, verifier.py     the loss of acknowledged writes
"""
