"""The file system as the kernel asks for it: operations that know no FUSE library, and the front ends that call them.

    types, errors         what a request and its answer consist of, and errors with an errno
    handles               open files: the port and the handle that an opened disk needs
    truncation, ...       what an opener that truncated its disk owes as zeros
    transfers             READ and WRITE, the hot path
    operations            all other requests
    front                 the Protocol of a front end
    pyfuse3_front/        the front end on libfuse; the only importer of pyfuse3

Each line names only what stands above it, and the adapter is the only one that knows its library. A front end that
reads /dev/fuse itself would stand beside it.
"""
