"""Shares a disk among the nodes and classes that use it.

decide/ says which request goes to the disk next, and learn/ estimates what requests cost and how many the disk should
have at once. Both are pure: time is an argument, and nothing sleeps. usage.py counts what each flow got. runner.py
stands on top: it owns the clock, and moves requests between a queue and a disk.
"""
