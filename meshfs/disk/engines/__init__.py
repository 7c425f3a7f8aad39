"""Engines pass reads and writes to the kernel: by io_uring, by Linux AIO or by threads.

All three have the interface of `meshfs.disk.base.Engine`. choice.py picks the best one that the kernel allows.
"""
