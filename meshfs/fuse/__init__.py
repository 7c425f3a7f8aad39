"""The file system of a mount: operations that depend on no FUSE library, and the front ends that call them.

    types, errors         requests and answers, and errors with an errno
    truncation, ...       the zeros that an opener must write after it has truncated its disk
    handles               open files, and the methods of disks that they use
    transfers             READ and WRITE, the hot path
    operations            all other requests
    front                 the Protocol of a front end
    pyfuse3_front/        the front end on libfuse, the only package that imports pyfuse3

A line imports only from lines above it. A front end that reads /dev/fuse itself would be a package beside
pyfuse3_front.
"""
