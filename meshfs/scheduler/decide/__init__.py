"""Which request goes to a disk next: pure decisions, with the time as an argument.

fair.py is the queue that shares by weight, and queue.py the one that serves in order of arrival. gates.py and pacer.py
hold back what is over its limit. flow.py has the state of one flow, and policy.py what an administrator wants.
"""
