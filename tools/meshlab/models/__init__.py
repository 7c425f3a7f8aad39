"""Models to check the product against: the behaviour of a queue, and the possible contents of a disk after a loss."""
