"""FUSE requests -> namespace, ports and handles -> errno. No policy, no waiting of its own.

What a disk's file does where a regular file and a block device differ:

    open O_TRUNC,           the size stays, and so do the bytes behind the end that the opener wrote or
    ftruncate               truncated to, as on a block device. What this opener skips from then on reads as
                            zeros, as in a regular file (fuse/truncation.py). EFBIG behind the disk's end
    truncate by path        ftruncate of the calling thread's latest open of the disk; without one EPERM,
                            unless it is the present size
    store to a mapping      as to a block device: it neither moves an end nor zeroes anything. There is one
                            exception: the kernel writes a dirty page back through any open that is mapped,
                            and pyfuse3 does not pass on that it is no write(2). Where that open was
                            truncated and the page lies behind its end, what it skipped is zeroed
    read at the end         0 bytes
    write past the end      what fits, then ENOSPC
    chmod, chown            EPERM; utimens is accepted and changes nothing (`touch`, `cp -p` and
                            rsync on a device node succeed too)
    mtime, ctime, atime     when anybody on any node last wrote to the disk, as the owner tells at
                            every stat(2) (`Port.written_ns`)
    create, unlink, rename, link, mkdir, setxattr, ...    EPERM
    open for writing of a read-only disk                  EROFS

What reaches the owner, and when it is on stable storage there:

    write(2)                        the owner has it when the call returns: there is no write-back cache
    fsync, fdatasync, MS_SYNC       everything acknowledged before is on stable storage (FSYNC)
    O_SYNC, O_DSYNC                 each write is (write-through)
    close(2)                        waits for nothing but dirty mapped pages, and flushes nothing, as on a
                                    block device: FLUSH is refused once (ENOSYS), then never sent
    sync(2), syncfs(2)              dirty mapped pages reach the owner; the kernel passes FUSE_SYNCFS on
                                    for virtiofs only (fc->sync_fs), so nobody asks for a flush
    umount                          the mount's process flushes what nobody flushed (`Initiator.settle`)

Permission bits are the kernel's work (default_permissions).

READ and WRITE are the hot path: one frame, one dictionary look-up, then the port's handle.
"""

import errno
import functools
import itertools
import logging
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, ParamSpec, Protocol, TypeVar

import pyfuse3
import trio

from meshfs import bugs, limits
from meshfs.fuse.openers import may_read_disks, sees_all
from meshfs.fuse.page_cache import PageCache
from meshfs.fuse.truncated import TruncatedOpener
from meshfs.fuse.truncating import Ambiguous, Openers
from meshfs.linux import ioprio
from meshfs.model import Access, DiskInfo, IoClass
from meshfs.namespace.tree import (
    BLOCK_BYTES,
    XATTR_OPEN_PREFIX,
    XATTR_PREFIX,
    Directory,
    DiskFile,
    Node,
    StatusFile,
    Symlink,
    Tree,
)

log = logging.getLogger(__name__)

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

_SECTOR_BYTES: Final = 512  # the unit of st_blocks, whatever the disk's is


class Handle(Protocol):
    """An open disk. Every method ends within the mount's I/O timeout; errors are OSError.

    ``zero`` makes the beginning of a range read as zeros and gives the count of bytes done; ``length`` is positive.
    """

    async def read(self, offset: int, size: int) -> bytes | bytearray | memoryview: ...

    async def write(self, offset: int, data: bytes | memoryview, *, write_through: bool = False) -> int: ...

    async def zero(self, offset: int, length: int, *, write_through: bool = False) -> int: ...

    async def flush(self) -> None: ...

    async def close(self) -> None: ...


class Port(Protocol):
    """One disk as the initiator sees it."""

    async def open(self, io_class: IoClass, *, writable: bool) -> Handle: ...

    async def written_ns(self) -> int:
        """When anybody last wrote to the disk, ns of the epoch; bounded, never raises."""


class _Open:
    """One open file; ``info`` is None for the status. ``truncated`` is set from the first truncation on."""

    __slots__ = ("handle", "info", "opened_by", "size_bytes", "truncated", "write_through")

    def __init__(self, handle: Handle, info: DiskInfo | None, *, write_through: bool) -> None:
        self.handle = handle
        self.info = info
        self.size_bytes = 0 if info is None else info.size_bytes
        self.write_through = write_through
        self.truncated: TruncatedOpener | None = None
        #: The inode, and the thread that opened it.
        self.opened_by = (0, 0)


class _StatusHandle:
    """The status as it was at open and for that opener, so that a reader in pieces gets one document."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    async def read(self, offset: int, size: int) -> bytes:
        return self._content[offset : offset + size]

    async def write(self, offset: int, data: bytes | memoryview, *, write_through: bool = False) -> int:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    async def zero(self, offset: int, length: int, *, write_through: bool = False) -> int:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    async def flush(self) -> None:
        return

    async def close(self) -> None:
        return


def _guarded(
    method: Callable[Parameters, Awaitable[Result]],
) -> Callable[Parameters, Awaitable[Result]]:
    """Any error but FUSEError becomes one: pyfuse3 ends the mount for all others."""

    @functools.wraps(method)
    async def guarded(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        try:
            return await method(*args, **kwargs)
        except pyfuse3.FUSEError:
            raise
        except Exception as error:
            raise _translated(method.__name__, error) from error

    return guarded


def _translated(operation: str, error: Exception) -> pyfuse3.FUSEError:
    """An OSError keeps its errno. Anything else is a fault of ours: the caller gets EIO."""
    if isinstance(error, OSError):
        unnumbered = errno.ETIMEDOUT if isinstance(error, TimeoutError) else errno.EIO
        return pyfuse3.FUSEError(error.errno or unnumbered)
    bugs.report(log, f"{operation} (the caller got EIO)", error)
    return pyfuse3.FUSEError(errno.EIO)


def _drop_pages(inode: int) -> None:
    try:
        pyfuse3.invalidate_inode(pyfuse3.InodeT(inode))
    except OSError as error:
        # The kernel knows no such inode (any more), or the mount is ending.
        log.debug("pages of inode %d are not dropped: %s", inode, error)


class Operations:
    """What pyfuse3 calls; not its subclass, as its own methods promise less (bytes, no buffers).

    ``started`` is set when the kernel's first request was answered.
    """

    supports_dot_lookup = False
    enable_writeback_cache = False
    enable_acl = False

    def __init__(
        self,
        tree: Tree,
        port_of: Callable[[DiskInfo], Port],
        status: Callable[[bool], bytes],
        *,
        io_class: IoClass = IoClass.APP,
        page_cache: bool = True,
        disk_gid: int = 0,
    ) -> None:
        self.started = trio.Event()
        #: Open files by disk id, for the status.
        self.opens: Counter[str] = Counter()
        #: Data of the writes that are being worked on.
        self.writes_bytes = 0
        self._tree = tree
        self._port_of = port_of
        self._status = status
        #: For files opened from now on.
        self.io_class = io_class
        self.page_cache = page_cache
        self._disk_gid = disk_gid
        self._numbers = itertools.count(1)
        self._open: dict[int, _Open] = {}
        self._listings: dict[int, tuple[Directory, list[tuple[bytes, Node]]]] = {}
        self._openers: Openers[_Open] = Openers()
        self._pages: PageCache | None = None
        self._gone: set[int] = set()
        self._gone_changed = trio.Event()

    def init(self) -> None:
        self.started.set()

    def mounted(self, pages: PageCache) -> None:
        """The mount is there, and has these cached pages; before the first request is answered."""
        self._pages = pages

    # --- the hot path -----------------------------------------------------------------

    async def read(self, fh: int, offset: int, size: int) -> bytes | bytearray | memoryview:
        try:
            return await self._open[fh].handle.read(offset, size)
        except Exception as error:
            raise _translated("read", error) from error

    async def write(self, fh: int, offset: int, data: bytes | memoryview) -> int:
        opened = self._open[fh]
        room_bytes = opened.size_bytes - offset
        if len(data) > room_bytes:
            if room_bytes <= 0:
                raise pyfuse3.FUSEError(errno.ENOSPC)
            data = memoryview(data)[:room_bytes]
        self.writes_bytes += (size := len(data))
        try:
            if opened.truncated is not None:
                return await opened.truncated.write(offset, data)
            return await opened.handle.write(offset, data, write_through=opened.write_through)
        except Exception as error:
            raise _translated("write", error) from error
        finally:
            self.writes_bytes -= size

    # --- files ------------------------------------------------------------------------

    @_guarded
    async def open(self, inode: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        node = self._node(inode)
        number = next(self._numbers)
        if isinstance(node, StatusFile):
            self._open[number] = _Open(_StatusHandle(self._status(sees_all(ctx.uid))), None, write_through=False)
            return pyfuse3.FileInfo(fh=number, direct_io=True, keep_cache=False)
        if not isinstance(node, DiskFile):
            raise pyfuse3.FUSEError(errno.EISDIR)
        info = node.disk.info
        writable = flags & os.O_ACCMODE != os.O_RDONLY
        if writable and info.access is not Access.READ_WRITE:
            raise pyfuse3.FUSEError(errno.EROFS)
        idle = self.io_class is IoClass.SYSTEM or ioprio.is_idle(ctx.pid)
        io_class = IoClass.SYSTEM if idle else IoClass.APP
        handle = await self._port_of(info).open(io_class, writable=writable)
        if self._tree.get(inode) is not node:
            # The open found another disk than the one this inode is of; the kernel looks up the name again.
            await handle.close()
            raise pyfuse3.FUSEError(errno.ESTALE)
        # The open may also have found that the disk grew.
        info = node.disk.info
        opened = self._open[number] = _Open(handle, info, write_through=bool(flags & os.O_DSYNC))
        opened.opened_by = (int(inode), int(ctx.pid))
        self._openers.opened(opened, *opened.opened_by, trio.current_time())
        self.opens[info.id] += 1
        if flags & os.O_TRUNC:
            # Only where the kernel was not told to ask for it by SETATTR: see handshake.py.
            await self._truncate(opened, 0)
        return pyfuse3.FileInfo(fh=number, direct_io=not self.page_cache, keep_cache=False)

    @_guarded
    async def release(self, fh: int) -> None:
        opened = self._open.pop(fh)
        if opened.info is not None:
            self.opens[opened.info.id] -= 1
            self._openers.released(opened, *opened.opened_by)
        await opened.handle.close()

    @_guarded
    async def fsync(self, fh: int, datasync: bool) -> None:
        opened = self._open[fh]
        # A disk this node may not write has nothing of this node's to flush, and SMB would refuse.
        if opened.info is not None and opened.info.access is Access.READ_WRITE:
            await opened.handle.flush()

    # --- disks that are gone ----------------------------------------------------------

    def gone(self, inodes: Sequence[int]) -> None:
        """These inodes are of disks that are no longer there: their cached pages must not be read any more."""
        self._gone.update(inodes)
        self._gone_changed.set()

    async def drop_pages(self) -> None:
        """Have the kernel drop the cached pages of disks that are gone, as long as the mount serves.

        In a thread, as the kernel waits for requests of the pages that are under way.
        """
        while True:
            await self._gone_changed.wait()
            self._gone_changed = trio.Event()
            inodes, self._gone = self._gone, set()
            for inode in inodes:
                await trio.to_thread.run_sync(_drop_pages, inode, abandon_on_cancel=True)

    # --- names ------------------------------------------------------------------------

    @_guarded
    async def lookup(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        parent = self._directory(parent_inode)
        node = parent.entries.get(name)
        if node is None:
            raise pyfuse3.FUSEError(errno.ENOENT)
        return self._attributes(node)

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        """Inode numbers are kept by path, not by the kernel's references."""

    @_guarded
    async def getattr(self, inode: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        node = self._node(inode)
        if isinstance(node, DiskFile):
            # Anybody may have written to it: stat(2) decides what rsync, cp -u and tar -g copy.
            node.mtime_ns = max(node.mtime_ns, await self._port_of(node.disk.info).written_ns())
        return self._attributes(node)

    @_guarded
    async def setattr(
        self,
        inode: int,
        attr: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: int | None,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        node = self._node(inode)
        present = self._attributes(node)
        if fields.update_mode or fields.update_uid or fields.update_gid:
            raise pyfuse3.FUSEError(errno.EPERM)
        if fields.update_size:
            opened = self._truncating(inode, fh, ctx)
            if opened is not None:
                await self._truncate(opened, attr.st_size)
            elif attr.st_size != present.st_size:
                raise pyfuse3.FUSEError(errno.EPERM)
        return present

    def _truncating(self, inode: int, fh: int | None, ctx: pyfuse3.RequestContext) -> _Open | None:
        """The opener that truncates: that of an ftruncate(2), or of an open with O_TRUNC, or of a truncate(2)."""
        if fh is not None:
            return self._open[fh]
        try:
            return self._openers.truncating(int(inode), int(ctx.pid), trio.current_time())
        except Ambiguous:
            log.warning("inode %d: an open with O_TRUNC is refused (EBUSY): two processes of another PID namespace "
                        "opened the disk within %g s, and the kernel does not say which of them truncates; try again",
                        inode, limits.FUSE_TRUNCATE_WITHIN_S)  # fmt: skip
            raise pyfuse3.FUSEError(errno.EBUSY) from None

    async def _truncate(self, opened: _Open, size: int) -> None:
        if opened.info is None:
            raise pyfuse3.FUSEError(errno.EPERM)
        if opened.info.access is not Access.READ_WRITE:
            raise pyfuse3.FUSEError(errno.EROFS)
        if size > opened.size_bytes:
            raise pyfuse3.FUSEError(errno.EFBIG)
        if opened.truncated is None:
            opened.truncated = TruncatedOpener(
                opened.handle, opened.opened_by[0], self._pages, write_through=opened.write_through
            )
        await opened.truncated.truncate(size)

    @_guarded
    async def readlink(self, inode: int, ctx: pyfuse3.RequestContext) -> bytes:
        node = self._node(inode)
        if not isinstance(node, Symlink):
            raise pyfuse3.FUSEError(errno.EINVAL)
        return node.target

    @_guarded
    async def opendir(self, inode: int, ctx: pyfuse3.RequestContext) -> int:
        number = next(self._numbers)
        self._listings[number] = (self._directory(inode), [])
        return number

    @_guarded
    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        directory, entries = self._listings[fh]
        if start_id == 0:
            # Positions count in a listing taken at the start (and again at rewinddir), so a
            # tree that changes meanwhile shows no name twice and skips none.
            entries = [(b".", directory), (b"..", directory.parent), *directory.listed()]
            self._listings[fh] = (directory, entries)
        for position in range(start_id, len(entries)):
            name, node = entries[position]
            if not pyfuse3.readdir_reply(token, name, self._attributes(node), position + 1):
                return

    @_guarded
    async def releasedir(self, fh: int) -> None:
        del self._listings[fh]

    @_guarded
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        """A directory has nothing to make stable."""

    # --- extended attributes and the file system --------------------------------------
    #
    # xattr(7): the kernel shows user.* only to those who may read the file, and system.* to everybody. Each
    # caller is listed the names whose values it gets; either prefix is answered.

    async def getxattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> bytes:
        # The kernel asks for security.capability at every write; this one must be cheap.
        node = self._tree.get(inode)
        if isinstance(node, DiskFile) and name.startswith((b"user.", XATTR_OPEN_PREFIX)):
            value = node.xattrs().get(name.replace(XATTR_OPEN_PREFIX, XATTR_PREFIX, 1))
            if value is not None:
                return value
        raise pyfuse3.FUSEError(errno.ENODATA)

    @_guarded
    async def listxattr(self, inode: int, ctx: pyfuse3.RequestContext) -> list[bytes]:
        node = self._node(inode)
        if not isinstance(node, DiskFile):
            return []
        if may_read_disks(ctx.uid, ctx.gid, ctx.pid, self._disk_gid):
            return list(node.xattrs())
        return [name.replace(XATTR_PREFIX, XATTR_OPEN_PREFIX, 1) for name in node.xattrs()]

    @_guarded
    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        """Sizes of 0, as of /proc: nothing can be stored here, and `df` then leaves it out
        instead of calling it full."""
        data = pyfuse3.StatvfsData()
        data.f_bsize = data.f_frsize = BLOCK_BYTES
        data.f_blocks = data.f_bfree = data.f_bavail = 0
        data.f_files = data.f_ffree = data.f_favail = 0
        data.f_namemax = 255
        return data

    # --- what the tree does not do ----------------------------------------------------

    async def _refuse(self, *args: object) -> Any:
        raise pyfuse3.FUSEError(errno.EPERM)

    async def _not_implemented(self, *args: object) -> Any:
        raise pyfuse3.FUSEError(errno.ENOSYS)

    mknod = mkdir = unlink = rmdir = symlink = rename = link = create = _refuse
    setxattr = removexattr = _refuse
    # Answered so once, the kernel does these alone.
    flush = poll = access = _not_implemented

    # --- helpers ----------------------------------------------------------------------

    def _node(self, inode: int) -> Node:
        node = self._tree.get(inode)
        if node is None:
            # The kernel then looks up the name again, which may be another disk's by now.
            raise pyfuse3.FUSEError(errno.ESTALE)
        return node

    def _directory(self, inode: int) -> Directory:
        node = self._node(inode)
        if not isinstance(node, Directory):
            raise pyfuse3.FUSEError(errno.ENOTDIR)
        return node

    def _attributes(self, node: Node) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.entry_timeout = entry.attr_timeout = limits.FUSE_ATTRIBUTES_VALID_S
        entry.st_ino = node.inode
        entry.st_mode = node.mode
        entry.st_mtime_ns = entry.st_ctime_ns = entry.st_atime_ns = node.mtime_ns
        entry.st_blksize = BLOCK_BYTES
        if isinstance(node, DiskFile):
            info = node.disk.info
            # The kernel asks at each stat, as the time of the last write is not this mount's alone to know.
            entry.attr_timeout = 0
            entry.st_size = info.size_bytes
            entry.st_blocks = -(-info.size_bytes // _SECTOR_BYTES)
            entry.st_blksize = max(BLOCK_BYTES, info.physical_block_size_bytes)
            entry.st_gid = self._disk_gid
        elif isinstance(node, Symlink):
            entry.st_size = len(node.target)
        elif isinstance(node, Directory):
            entry.st_nlink = node.links
        return entry
