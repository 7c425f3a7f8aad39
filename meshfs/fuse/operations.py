"""Answer FUSE requests by the namespace, the ports and the handles, without any FUSE library.

A front end (front.py) calls these operations, and `Transfers` for READ and WRITE. An operation refuses a request by
an OSError, most often a FuseError. Any other exception is a bug of meshfs, and `errno_of` returns EIO for it.

A regular file and a block device differ. A disk's file behaves as follows:

    open O_TRUNC,           The size of the disk's file stays. If this opener later skips bytes, they read as
    ftruncate               zeros, as in a regular file (fuse/truncation.py). The opener has an end of its own,
                            which its truncations and writes move. The bytes past this end stay, as on a block
                            device. A size past the disk's end gives EFBIG.
    truncate by path        It acts like ftruncate of the calling thread's latest open of the disk. Without such
                            an open it gives EPERM, unless the size is the present one.
    store to a mapping      It acts as on a block device: it neither moves an end nor zeroes anything. There is
                            one exception. The kernel writes a dirty page back through any open that is mapped,
                            and not every front end can tell this write from a write(2). If that open was
                            truncated, and the page is behind its end, the bytes that it skipped are zeroed.
    read at the end         It returns 0 bytes.
    write past the end      It writes what fits. If nothing fits, it gives ENOSPC.
    chmod, chown            They give EPERM. utimens is accepted and changes nothing, because `touch`, `cp -p`
                            and rsync also succeed on a device node.
    mtime, ctime, atime     All are the time at which any node last wrote to the disk. Every stat(2) asks the
                            owner for this time (`DiskPort.written_ns`).
    create, unlink, rename, link, mkdir, setxattr, ...    EPERM
    open for writing of a read-only disk                  EROFS

These calls decide when data reaches the owner, and when it is on stable storage there:

    write(2)                        The owner has the data when the call returns, because there is no
                                    write-back cache.
    fsync, fdatasync, MS_SYNC       They put everything acknowledged before on stable storage (FSYNC).
    O_SYNC, O_DSYNC                 Each write is on stable storage when it returns (write-through).
    close(2)                        It waits only for dirty mapped pages. It flushes nothing, as on a block
                                    device: FLUSH is refused once with ENOSYS, and is never sent again.
    sync(2), syncfs(2)              Dirty mapped pages reach the owner, but are not flushed there. The kernel
                                    sends FUSE_SYNCFS only to virtiofs (fc->sync_fs).
    umount                          The mount's process flushes what was not flushed (`Initiator.settle`).

The kernel checks the permission bits (default_permissions). enclosure_files.py says how the file of an enclosure
behaves.
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
from meshfs.fuse.callers import may_read_disks, sees_all
from meshfs.fuse.enclosure_files import EnclosurePortOf, check_writable, open_enclosure
from meshfs.fuse.errors import FuseError
from meshfs.fuse.gone_pages import GonePages
from meshfs.fuse.handles import DiskPort, OpenFile, OpenFiles, StatusHandle
from meshfs.fuse.listings import Listings
from meshfs.fuse.openers import Ambiguous, Openers
from meshfs.fuse.page_cache import whole_pages
from meshfs.fuse.truncated_opener import TruncatedOpener
from meshfs.fuse.types import AttributeChange, Attributes, Caller, Opened, Pages, Volume
from meshfs.linux import ioprio
from meshfs.model import Access, DiskInfo, IoClass
from meshfs.namespace.entries import (
    XATTR_OPEN_PREFIX,
    XATTR_PREFIX,
    DeviceFile,
    Directory,
    DiskFile,
    EnclosureFile,
    StatusFile,
    Symlink,
    TreeEntry,
)
from meshfs.namespace.names import NAME_MAX_BYTES
from meshfs.namespace.tree import BLOCK_BYTES, MeshTree

logger = logging.getLogger(__name__)

#: The errno for each request that is not served. After one answer with ENOSYS, the kernel handles that kind of request
#: without the mount.
UNSERVED: Final[Mapping[str, int]] = {
    **dict.fromkeys(("mknod", "mkdir", "unlink", "rmdir", "symlink", "rename", "link", "create"), errno.EPERM),
    **dict.fromkeys(("setxattr", "removexattr"), errno.EPERM),
    **dict.fromkeys(("flush", "poll", "access"), errno.ENOSYS),
}


class Operations:
    """Answers every request except READ and WRITE, which `Transfers` answers for the same ``files``.

    ``status`` returns the text of the status file: all of it if called with True, else only what everybody may see.
    ``gone`` collects the inodes of disks that are gone or grew.
    """

    def __init__(
        self,
        tree: MeshTree,
        port_of: Callable[[DiskInfo], DiskPort],
        enclosure_port_of: EnclosurePortOf,
        status: Callable[[bool], bytes],
        files: OpenFiles,
        gone: GonePages,
        *,
        io_class: IoClass = IoClass.APP,
        page_cache: bool = True,
        disk_gid: int = 0,
    ) -> None:
        self.files = files
        #: `io_class` and `page_cache` apply to files that are opened from now on.
        self.io_class = io_class
        self.page_cache = page_cache
        self._gone = gone
        self._tree = tree
        self._port_of = port_of
        self._enclosure_port_of = enclosure_port_of
        self._status = status
        self._disk_gid = disk_gid
        self._numbers = itertools.count(1)
        self._listings = Listings()
        self._openers: Openers[OpenFile] = Openers()
        self._pages: Pages | None = None

    async def run(self, pages: Pages, task_status: trio.TaskStatus[None]) -> None:
        """Drop the cached pages of disks that are gone or grew, until cancelled.

        The front end starts this task after it has mounted, and before it answers the first request. ``pages`` drops
        the kernel's pages of the mount.
        """
        self._pages = pages
        task_status.started()
        await self._gone.run(pages)

    def opens_of(self, disk_id: str) -> int:
        """Return the number of open files of the disk."""
        return self.files.of_disk[disk_id]

    async def drop_pages(self, disk_id: str, start: int, stop: int) -> None:
        """Write back the dirty pages of a range of the disk, then drop all pages of the range. Has a time limit."""
        node = self._tree.disk_file(disk_id)
        if node is not None and self._pages is not None:
            await self._pages.drop(node.inode, *whole_pages(start, stop), limits.FUSE_DROP_PAGES_TIMEOUT_S)

    # --- files ------------------------------------------------------------------------

    async def open(self, inode: int, flags: int, caller: Caller) -> Opened:
        node = self._node(inode)
        number = next(self._numbers)
        if isinstance(node, StatusFile):
            self.files.by_number[number] = OpenFile(
                StatusHandle(self._status(sees_all(caller.uid))), None, write_through=False
            )
            return Opened(number, direct=True)
        if isinstance(node, EnclosureFile):
            self.files.by_number[number] = await open_enclosure(node, flags, self._enclosure_port_of)
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
            # The open has shown that the disk is not the one of this inode. ESTALE makes the kernel look up the name
            # again.
            await handle.close()
            raise FuseError(errno.ESTALE)
        # The open may also have shown that the disk grew.
        info = node.disk.info
        opened = self.files.by_number[number] = OpenFile(handle, info, write_through=bool(flags & os.O_DSYNC))
        opened.opened_by = (int(inode), int(caller.pid))
        self._openers.opened(opened, *opened.opened_by, trio.current_time())
        self.files.of_disk[info.id] += 1
        if flags & os.O_TRUNC:
            # If the front end has switched ATOMIC_O_TRUNC off, the kernel sends a SETATTR instead of this flag.
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
        # If this node may not write to the disk, it has nothing to flush, and SMB would refuse the flush.
        if opened.info is not None and opened.info.access is Access.READ_WRITE:
            await opened.handle.flush()

    # --- attributes -------------------------------------------------------------------

    async def getattr(self, inode: int) -> Attributes:
        if self._tree.get(inode) is None and self._is_removed(inode):
            # The kernel asks for the attributes before some reads, which fail with this error.
            raise FuseError(errno.ENODEV)
        node = self._node(inode)
        if isinstance(node, DiskFile):
            # Another node may have written to the disk. rsync, cp -u and tar -g decide by stat(2) what to copy.
            node.mtime_ns = max(node.mtime_ns, await self._port_of(node.disk.info).written_ns())
        return self._attributes(node)

    async def setattr(self, inode: int, change: AttributeChange, fh: int | None, caller: Caller) -> Attributes:
        """Change what can be changed, and return the attributes.

        A new size does not change them: it only decides which bytes of a disk read as zeros from now on.
        """
        node = self._node(inode)
        present = self._attributes(node)
        if change.protection:
            raise FuseError(errno.EPERM)
        if change.size_bytes is not None and isinstance(node, EnclosureFile):
            check_writable(node, os.O_WRONLY)
        elif change.size_bytes is not None:
            opened = self._truncating(inode, fh, caller)
            if opened is not None:
                await self._truncate(opened, change.size_bytes)
            elif change.size_bytes != present.size_bytes:
                raise FuseError(errno.EPERM)
        return present

    def _truncating(self, inode: int, fh: int | None, caller: Caller) -> OpenFile | None:
        """Return the open file that an ftruncate(2), an open with O_TRUNC, or a truncate(2) concerns, if any."""
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
        """Yield (name, attributes, position of the next entry) for each entry from position ``start`` on."""
        return ((name, self._attributes(node), behind) for name, node, behind in self._listings.entries(fh, start))

    def releasedir(self, fh: int) -> None:
        self._listings.close(fh)

    # --- extended attributes and the file system --------------------------------------
    #
    # The kernel returns user.* only to callers who may read the file, and system.* to everybody (xattr(7)). A caller's
    # list has only names whose values the caller can get. Both prefixes are answered.

    def getxattr(self, inode: int, name: bytes) -> bytes | None:
        """Return the value, or None if there is none.

        This must be cheap, because without HANDLE_KILLPRIV_V2 the kernel asks for security.capability before every
        write(2).
        """
        node = self._tree.get(inode)
        if isinstance(node, DeviceFile) and name.startswith((b"user.", XATTR_OPEN_PREFIX)):
            return node.xattrs().get(name.replace(XATTR_OPEN_PREFIX, XATTR_PREFIX, 1))
        return None

    def listxattr(self, inode: int, caller: Caller) -> list[bytes]:
        node = self._node(inode)
        if not isinstance(node, DeviceFile):
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
            # ESTALE makes the kernel look up the name again, which may belong to another disk by now.
            raise FuseError(errno.ESTALE)
        return node

    def _is_removed(self, inode: int) -> bool:
        """Return whether the inode is that of an open disk that was removed, and that no other disk has replaced."""
        disks = {
            opened.info.id
            for opened in self.files.by_number.values()
            if opened.opened_by[0] == inode and opened.info is not None
        }
        return bool(disks) and not any(map(self._tree.disk_file, disks))

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
                # The kernel must ask at each stat, because other nodes also change the time of the last write.
                attributes_valid_s=0,
                size_bytes=info.size_bytes,
                preferred_io_bytes=max(BLOCK_BYTES, info.physical_block_size_bytes),
                gid=self._disk_gid,
            )
        if isinstance(node, EnclosureFile):
            size_bytes = node.enclosure.info.size_bytes
            return replace(common, attributes_valid_s=0, size_bytes=size_bytes, gid=self._disk_gid)
        if isinstance(node, Symlink):
            # A disk may move to another slot at any time, and a program that looks for it must find the right one.
            return replace(common, name_valid_s=0, attributes_valid_s=0, size_bytes=len(node.target))
        if isinstance(node, Directory):
            return replace(common, links=node.links)
        return common
