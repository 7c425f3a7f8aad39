"""Models to check the product against: what a queue may do, and what a disk may contain after a loss."""
