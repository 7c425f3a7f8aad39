"""How reads and writes get to the kernel: io_uring, Linux AIO or threads, and the choice between them.

All three have the interface of `meshfs.disk.base.Engine`. choice.py probes which of them the kernel allows.
"""
