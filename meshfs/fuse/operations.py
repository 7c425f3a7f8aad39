"""FUSE requests -> namespace, ports and handles -> errno. No policy, no waiting of its own, no FUSE library.

A front end (front.py) calls these operations, and `Transfers` for READ and WRITE. What an operation refuses it raises
as an OSError, most often a FuseError; any other error is a fault of ours, and `errno_of` gives EIO for it.

What a disk's file does where a regular file and a block device differ:

    open O_TRUNC,           the size stays, and so do the bytes behind the end that the opener wrote or
    ftruncate               truncated to, as on a block device. What this opener skips from then on reads as
                            zeros, as in a regular file (fuse/truncation.py). EFBIG behind the disk's end
    truncate by path        ftruncate of the calling thread's latest open of the disk; without one EPERM,
                            unless it is the present size
    store to a mapping      as to a block device: it neither moves an end nor zeroes anything. There is one
                            exception: the kernel writes a dirty page back through any open that is mapped,
                            and not every front end is told that it is no write(2). Where that open was
                            truncated and the page lies behind its end, what it skipped is zeroed
    read at the end         0 bytes
    write past the end      what fits, then ENOSPC
    chmod, chown            EPERM; utimens is accepted and changes nothing (`touch`, `cp -p` and
                            rsync on a device node succeed too)
    mtime, ctime, atime     when anybody on any node last wrote to the disk, as the owner tells at
                            every stat(2) (`DiskPort.written_ns`)
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
"""

import errno
import itertools
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Final

import trio

from meshfs import limits
from meshfs.fuse.errors import FuseError
from meshfs.fuse.gone_pages import GonePages
from meshfs.fuse.handles import DiskPort, OpenFile, OpenFiles, StatusHandle
from meshfs.fuse.listings import Listings
from meshfs.fuse.openers import may_read_disks, sees_all
from meshfs.fuse.truncated import TruncatedOpener
from meshfs.fuse.truncating import Ambiguous, Openers
from meshfs.fuse.types import AttributeChange, Attributes, Caller, Opened, Pages, Volume
from meshfs.linux import ioprio
from meshfs.model import Access, DiskInfo, IoClass
from meshfs.namespace.catalog import NAME_MAX_BYTES
from meshfs.namespace.tree import (
    BLOCK_BYTES,
    XATTR_OPEN_PREFIX,
    XATTR_PREFIX,
    Directory,
    DiskFile,
    MeshTree,
    StatusFile,
    Symlink,
    TreeEntry,
)

logger = logging.getLogger(__name__)

#: The errno for each request that nothing here serves. Answered ENOSYS once, the kernel does these three alone.
UNSERVED: Final[Mapping[str, int]] = {
    **dict.fromkeys(("mknod", "mkdir", "unlink", "rmdir", "symlink", "rename", "link", "create"), errno.EPERM),
    **dict.fromkeys(("setxattr", "removexattr"), errno.EPERM),
    **dict.fromkeys(("flush", "poll", "access"), errno.ENOSYS),
}


class Operations:
    """What a mount answers to each request but READ and WRITE, which `Transfers` answers on the same ``files``.

    ``status`` gives the text of the status file, all of it or what everybody may see. ``gone`` has the inodes of disks
    that are no longer there.
    """

    def __init__(
        self,
        tree: MeshTree,
        port_of: Callable[[DiskInfo], DiskPort],
        status: Callable[[bool], bytes],
        files: OpenFiles,
        gone: GonePages,
        *,
        io_class: IoClass = IoClass.APP,
        page_cache: bool = True,
        disk_gid: int = 0,
    ) -> None:
        self.files = files
        #: For files opened from now on.
        self.io_class = io_class
        self.page_cache = page_cache
        self._gone = gone
        self._tree = tree
        self._port_of = port_of
        self._status = status
        self._disk_gid = disk_gid
        self._numbers = itertools.count(1)
        self._listings = Listings()
        self._openers: Openers[OpenFile] = Openers()
        self._pages: Pages | None = None

    async def run(self, pages: Pages, task_status: trio.TaskStatus[None]) -> None:
        """Have pages of disks that are gone dropped, until cancelled.

        The front end starts this when it has mounted, and before it answers the first request. ``pages`` are the
        kernel's pages of the mount.
        """
        self._pages = pages
        task_status.started()
        await self._gone.run(pages)

    # --- files ------------------------------------------------------------------------

    async def open(self, inode: int, flags: int, caller: Caller) -> Opened:
        node = self._node(inode)
        number = next(self._numbers)
        if isinstance(node, StatusFile):
            self.files.by_number[number] = OpenFile(
                StatusHandle(self._status(sees_all(caller.uid))), None, write_through=False
            )
            return Opened(number, direct=True)
        if not isinstance(node, DiskFile):
            raise FuseError(errno.EISDIR)
        info = node.disk.info
        writable = flags & os.O_ACCMODE != os.O_RDONLY
        if writable and info.access is not Access.READ_WRITE:
            raise FuseError(errno.EROFS)
        idle = self.io_class is IoClass.SYSTEM or ioprio.is_idle(caller.pid)
        io_class = IoClass.SYSTEM if idle else IoClass.APP
        handle = await self._port_of(info).open(io_class, writable=writable)
        if self._tree.get(inode) is not node:
            # The open found another disk than the one this inode is of; the kernel looks up the name again.
            await handle.close()
            raise FuseError(errno.ESTALE)
        # The open may also have found that the disk grew.
        info = node.disk.info
        opened = self.files.by_number[number] = OpenFile(handle, info, write_through=bool(flags & os.O_DSYNC))
        opened.opened_by = (int(inode), int(caller.pid))
        self._openers.opened(opened, *opened.opened_by, trio.current_time())
        self.files.of_disk[info.id] += 1
        if flags & os.O_TRUNC:
            # Only where the front end did not tell the kernel to ask for it by SETATTR (ATOMIC_O_TRUNC).
            await self._truncate(opened, 0)
        return Opened(number, direct=not self.page_cache)

    async def release(self, fh: int) -> None:
        opened = self.files.by_number.pop(fh)
        if opened.info is not None:
            self.files.of_disk[opened.info.id] -= 1
            self._openers.released(opened, *opened.opened_by)
        await opened.handle.close()

    async def fsync(self, fh: int) -> None:
        opened = self.files.by_number[fh]
        # A disk this node may not write has nothing of this node's to flush, and SMB would refuse.
        if opened.info is not None and opened.info.access is Access.READ_WRITE:
            await opened.handle.flush()

    # --- attributes -------------------------------------------------------------------

    async def getattr(self, inode: int) -> Attributes:
        node = self._node(inode)
        if isinstance(node, DiskFile):
            # Anybody may have written to it: stat(2) decides what rsync, cp -u and tar -g copy.
            node.mtime_ns = max(node.mtime_ns, await self._port_of(node.disk.info).written_ns())
        return self._attributes(node)

    async def setattr(self, inode: int, change: AttributeChange, fh: int | None, caller: Caller) -> Attributes:
        """Change what can be changed. The attributes stay, as a size only says what reads as zeros from now on."""
        node = self._node(inode)
        present = self._attributes(node)
        if change.protection:
            raise FuseError(errno.EPERM)
        if change.size_bytes is not None:
            opened = self._truncating(inode, fh, caller)
            if opened is not None:
                await self._truncate(opened, change.size_bytes)
            elif change.size_bytes != present.size_bytes:
                raise FuseError(errno.EPERM)
        return present

    def _truncating(self, inode: int, fh: int | None, caller: Caller) -> OpenFile | None:
        """Return the opener that an ftruncate(2), an open with O_TRUNC, or a truncate(2) means."""
        if fh is not None:
            return self.files.by_number[fh]
        try:
            return self._openers.truncating(int(inode), int(caller.pid), trio.current_time())
        except Ambiguous:
            logger.warning(
                "inode %d: an open with O_TRUNC is refused (EBUSY): two processes of another PID namespace "
                "opened the disk within %g s, and the kernel does not say which of them truncates; try again",
                inode,
                limits.FUSE_TRUNCATE_WITHIN_S,
            )
            raise FuseError(errno.EBUSY) from None

    async def _truncate(self, opened: OpenFile, size: int) -> None:
        if opened.info is None:
            raise FuseError(errno.EPERM)
        if opened.info.access is not Access.READ_WRITE:
            raise FuseError(errno.EROFS)
        if size > opened.size_bytes:
            raise FuseError(errno.EFBIG)
        if opened.truncated is None:
            opened.truncated = TruncatedOpener(
                opened.handle, opened.opened_by[0], self._pages, write_through=opened.write_through
            )
        await opened.truncated.truncate(size)

    # --- names ------------------------------------------------------------------------

    def lookup(self, parent_inode: int, name: bytes) -> Attributes:
        node = self._directory(parent_inode).entries.get(name)
        if node is None:
            raise FuseError(errno.ENOENT)
        return self._attributes(node)

    def readlink(self, inode: int) -> bytes:
        node = self._node(inode)
        if not isinstance(node, Symlink):
            raise FuseError(errno.EINVAL)
        return node.target

    def opendir(self, inode: int) -> int:
        number = next(self._numbers)
        self._listings.open(number, self._directory(inode))
        return number

    def readdir(self, fh: int, start: int) -> Iterator[tuple[bytes, Attributes, int]]:
        """Yield name, attributes and the position behind it for each entry from position ``start`` on."""
        return ((name, self._attributes(node), behind) for name, node, behind in self._listings.entries(fh, start))

    def releasedir(self, fh: int) -> None:
        self._listings.close(fh)

    # --- extended attributes and the file system --------------------------------------
    #
    # xattr(7): the kernel shows user.* only to those who may read the file, and system.* to everybody. Each
    # caller is listed the names whose values it gets; either prefix is answered.

    def getxattr(self, inode: int, name: bytes) -> bytes | None:
        """Return the value, or None where there is none.

        It must be cheap: without HANDLE_KILLPRIV_V2 the kernel asks for security.capability before every write(2).
        """
        node = self._tree.get(inode)
        if isinstance(node, DiskFile) and name.startswith((b"user.", XATTR_OPEN_PREFIX)):
            return node.xattrs().get(name.replace(XATTR_OPEN_PREFIX, XATTR_PREFIX, 1))
        return None

    def listxattr(self, inode: int, caller: Caller) -> list[bytes]:
        node = self._node(inode)
        if not isinstance(node, DiskFile):
            return []
        if may_read_disks(caller.uid, caller.gid, caller.pid, self._disk_gid):
            return list(node.xattrs())
        return [name.replace(XATTR_PREFIX, XATTR_OPEN_PREFIX, 1) for name in node.xattrs()]

    def statfs(self) -> Volume:
        return Volume(block_bytes=BLOCK_BYTES, name_max_bytes=NAME_MAX_BYTES)

    # --- helpers ----------------------------------------------------------------------

    def _node(self, inode: int) -> TreeEntry:
        node = self._tree.get(inode)
        if node is None:
            # The kernel then looks up the name again, which may be another disk's by now.
            raise FuseError(errno.ESTALE)
        return node

    def _directory(self, inode: int) -> Directory:
        node = self._node(inode)
        if not isinstance(node, Directory):
            raise FuseError(errno.ENOTDIR)
        return node

    def _attributes(self, node: TreeEntry) -> Attributes:
        valid_s = limits.FUSE_ATTRIBUTES_VALID_S
        common = Attributes(node.inode, node.mode, node.mtime_ns, valid_s, valid_s, BLOCK_BYTES)
        if isinstance(node, DiskFile):
            info = node.disk.info
            return replace(
                common,
                # The kernel asks at each stat, as the time of the last write is not this mount's alone to know.
                attributes_valid_s=0,
                size_bytes=info.size_bytes,
                preferred_io_bytes=max(BLOCK_BYTES, info.physical_block_size_bytes),
                gid=self._disk_gid,
            )
        if isinstance(node, Symlink):
            return replace(common, size_bytes=len(node.target))
        if isinstance(node, Directory):
            return replace(common, links=node.links)
        return common
