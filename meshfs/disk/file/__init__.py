"""Serve an image file or a block device as a disk.

claim.py opens the disk and claims it, and disk.py serves it. Each other module is one part of serving: alignment
(directio.py), zeroing (zero.py), writes of parts of blocks (merge.py), short results (transfer.py), the order of
writes (write_order.py), and the loss of acknowledged writes (losses.py, verifier.py).
"""
