"""What the scheduler learns of a disk from the requests that it serves: pure estimates, with the time as an argument.

cost.py fits what a request costs, depth.py finds how many requests the disk should have at once, and observer.py hands
both of them what was observed. Nothing here knows flows, weights or limits.
"""
