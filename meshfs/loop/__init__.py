"""The event loop beside trio: a reactor for descriptors that must not wait for trio's turns, and what stands on it.

reactor.py explains why there is one. worker.py runs a reactor in a thread of its own, alarm.py wakes at a time, and
bounded.py calls what may block in the kernel, for a bounded time.
"""
