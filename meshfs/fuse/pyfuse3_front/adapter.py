"""Translate pyfuse3's calls into calls of the operations, and the results and errors back.

READ and WRITE have no method here. The adapter inherits those of `Transfers`, which raise pyfuse3's error. So these
requests need no further call and no conversion.
"""

import errno
import functools
from collections.abc import Awaitable, Callable, Sequence
from typing import NoReturn, ParamSpec, TypeVar

import pyfuse3
import trio

from meshfs.fuse.errors import errno_of
from meshfs.fuse.operations import UNSERVED, Operations
from meshfs.fuse.transfers import Transfers
from meshfs.fuse.types import AttributeChange, Attributes

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def _guarded(method: Callable[Parameters, Awaitable[Result]]) -> Callable[Parameters, Awaitable[Result]]:
    """Turn every error into pyfuse3's own error, because pyfuse3 ends the mount at any other error."""

    @functools.wraps(method)
    async def guarded(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        try:
            return await method(*args, **kwargs)
        except pyfuse3.FUSEError:
            raise
        except Exception as error:
            raise pyfuse3.FUSEError(errno_of(method.__name__, error)) from error

    return guarded


def _refusing(number: int) -> Callable[..., Awaitable[NoReturn]]:
    async def refuse(*args: object) -> NoReturn:
        raise pyfuse3.FUSEError(number)

    return refuse


class Adapter(Transfers):
    """Answers the calls of pyfuse3.

    The class does not inherit from pyfuse3's Operations, because READ returns any buffer here, and only bytes there.
    ``started`` is set when pyfuse3 handles the kernel's first request (INIT).
    """

    supports_dot_lookup = False
    enable_writeback_cache = False
    enable_acl = False

    def __init__(self, operations: Operations) -> None:
        super().__init__(operations.files.by_number, pyfuse3.FUSEError)
        self.started = trio.Event()
        self._operations = operations
        for name, number in UNSERVED.items():
            setattr(self, name, _refusing(number))

    def init(self) -> None:
        self.started.set()

    # --- files ------------------------------------------------------------------------

    @_guarded
    async def open(self, inode: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        opened = await self._operations.open(inode, flags, ctx)
        return pyfuse3.FileInfo(fh=pyfuse3.FileHandleT(opened.number), direct_io=opened.direct, keep_cache=False)

    @_guarded
    async def release(self, fh: int) -> None:
        await self._operations.release(fh)

    @_guarded
    async def fsync(self, fh: int, datasync: bool) -> None:
        await self._operations.fsync(fh)

    # --- names and attributes ---------------------------------------------------------

    @_guarded
    async def lookup(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        return _entry(self._operations.lookup(parent_inode, name))

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        """Do nothing: inode numbers belong to paths, and do not depend on the kernel's references."""

    @_guarded
    async def getattr(self, inode: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        return _entry(await self._operations.getattr(inode))

    @_guarded
    async def setattr(
        self,
        inode: int,
        attr: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: int | None,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        change = AttributeChange(
            size_bytes=attr.st_size if fields.update_size else None,
            protection=fields.update_mode or fields.update_uid or fields.update_gid,
        )
        return _entry(await self._operations.setattr(inode, change, fh, ctx))

    @_guarded
    async def readlink(self, inode: int, ctx: pyfuse3.RequestContext) -> bytes:
        return self._operations.readlink(inode)

    @_guarded
    async def opendir(self, inode: int, ctx: pyfuse3.RequestContext) -> int:
        return self._operations.opendir(inode)

    @_guarded
    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        for name, attributes, next_id in self._operations.readdir(fh, start_id):
            if not pyfuse3.readdir_reply(token, pyfuse3.FileNameT(name), _entry(attributes), next_id):
                return

    @_guarded
    async def releasedir(self, fh: int) -> None:
        self._operations.releasedir(fh)

    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        """Do nothing: a directory has no data to flush."""

    # --- extended attributes and the file system --------------------------------------

    async def getxattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> bytes:
        value = self._operations.getxattr(inode, name)
        if value is None:
            raise pyfuse3.FUSEError(errno.ENODATA)
        return value

    @_guarded
    async def listxattr(self, inode: int, ctx: pyfuse3.RequestContext) -> list[bytes]:
        return self._operations.listxattr(inode, ctx)

    @_guarded
    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        volume = self._operations.statfs()
        data = pyfuse3.StatvfsData()
        data.f_bsize = data.f_frsize = volume.block_bytes
        data.f_blocks = data.f_bfree = data.f_bavail = 0
        data.f_files = data.f_ffree = data.f_favail = 0
        data.f_namemax = volume.name_max_bytes
        return data


def _entry(attributes: Attributes) -> pyfuse3.EntryAttributes:
    entry = pyfuse3.EntryAttributes()
    entry.st_ino = pyfuse3.InodeT(attributes.inode)
    entry.st_mode = pyfuse3.ModeT(attributes.mode)
    entry.st_mtime_ns = entry.st_ctime_ns = entry.st_atime_ns = attributes.changed_ns
    entry.st_nlink = attributes.links
    entry.st_gid = attributes.gid
    entry.st_size = attributes.size_bytes
    entry.st_blocks = attributes.blocks
    entry.st_blksize = attributes.preferred_io_bytes
    entry.entry_timeout = attributes.name_valid_s
    entry.attr_timeout = attributes.attributes_valid_s
    return entry
