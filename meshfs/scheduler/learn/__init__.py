"""Learn the properties of a disk from the requests that it serves. All estimates are pure, with time as an argument.

cost.py estimates the cost of a request, and clearing.py that of a zeroing or a discard. depth.py finds how many
requests the disk should have at once. observer.py measures the disk in windows (observation.py), and passes them to
cost.py and depth.py. Nothing here knows flows, weights or limits.
"""
