"""Share a disk among the nodes and classes that use it.

decide/ chooses the request that goes to the disk next. learn/ estimates the cost of a request, and how many requests
the disk should have at once. Both are pure: time is an argument, and nothing sleeps. usage.py counts the service that
each flow got. runner.py owns the clock, and moves requests between a queue and a disk.
"""
