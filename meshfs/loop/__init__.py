"""The event loop beside trio: a reactor for descriptors that must not wait for trio's scheduler, and its helpers.

reactor.py explains why meshfs has an event loop of its own. worker.py steps coroutines without making trio tasks of
them. alarm.py calls back at a given time. bounded.py makes calls that may block in the kernel, with a time limit.
"""
