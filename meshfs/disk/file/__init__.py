"""An image file or a block device as a disk.

claim.py opens and claims it, disk.py serves it, and the other modules are one part of that each: alignment, zeroing,
merging of neighbours, the order of writes, and what happens when the device loses what it acknowledged.
"""
