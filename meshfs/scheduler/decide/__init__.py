"""Choose the request that goes to a disk next. All decisions are pure, with time as an argument.

fair.py is the queue that shares by weight. queue.py has the interface of a queue, and a queue that serves in order of
arrival. gates.py and pacer.py hold back requests that exceed a limit. flow.py has the state of one flow. policy.py has
the administrator's settings: weights, floor, reservations and limits.
"""
