"""Serves the root of a share of disks or of enclosures, a directory with everything that the node may know of."""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Final, Generic, TypeVar

from meshfs.errors import StatusError
from meshfs.exporter.exchange.request import Request
from meshfs.exporter.kinds.at_create import Creator, answer, check_not_deleted
from meshfs.exporter.kinds.facts import volume_serial
from meshfs.exporter.kinds.kind import Kind
from meshfs.exporter.rules.access import READ_RIGHTS, WRITE_RIGHTS, expand_access
from meshfs.exporter.rules.dispositions import OVERWRITES
from meshfs.exporter.state.directory import DirectoryState
from meshfs.exporter.state.offer import Offer, Offered
from meshfs.exporter.state.open import Open, OwningSession
from meshfs.exporter.state.tree import Tree
from meshfs.exporter.state.watchers import RootWatchers
from meshfs.smb.constants import CreateAction, CreateDisposition, CreateOptions, NtStatus
from meshfs.smb.info import FileFacts, NamePattern
from meshfs.smb.messages import CreateRequest, FileTimes, FlushResponse

T = TypeVar("T", bound=Offered)

_INDEX: Final = 1


class RootOpen(Kind, Generic[T]):
    """Represents an open of the root. From its beginning to its end, its directory is among ``watchers``.

    ``offer`` has what the directory shows.
    """

    __slots__ = ("offer", "watchers")
    directory: DirectoryState

    def __init__(
        self,
        session: OwningSession[Open],
        tree: Tree,
        file_id: int,
        access: int,
        offer: Offer[T],
        watchers: RootWatchers,
    ) -> None:
        super().__init__(session, tree, file_id, access, "")
        self.directory = DirectoryState()
        self.offer = offer
        self.watchers = watchers
        watchers.add(self.directory)

    def close(self, then: Callable[[], object]) -> None:
        if not self.gone:
            self.watchers.remove(self.directory)
            self._end_waits(NtStatus.NOTIFY_CLEANUP)
            self._end()
        then()

    def flush(self, request: Request) -> None:
        """Answer at once. Nothing can be written to the root, so nothing is left to flush."""
        request.reply(FlushResponse().pack())

    def file_facts(self, request: Request) -> FileFacts:
        exporter = request.peer.exporter
        return FileFacts(
            name="",
            size_bytes=0,
            allocation_bytes=0,
            index_number=_INDEX,
            is_directory=True,
            times=FileTimes.same(exporter.started_filetime),
            volume_serial=volume_serial(exporter),
        )

    def entries(
        self, request: Request, pattern: NamePattern, after: str | None, newest: int
    ) -> Iterator[tuple[str, FileFacts | None]]:
        for each in self.offer.visible(request.session.user):
            key = each.name.casefold()
            if after is None or key > after:
                yield key, self.facts_of(request, each) if pattern.matches(each.name) else None

    @abstractmethod
    def facts_of(self, request: Request, offered: T) -> FileFacts:
        """Return the facts of a file in the root."""

    def watch(self, wanted: int, *, whole_tree: bool, output_bytes_max: int) -> None:
        if not self.directory.watched:
            self.directory.watch(wanted, whole_tree=whole_tree, output_bytes_max=output_bytes_max)


def root_creator(make: Callable[[Request, int], Kind]) -> Creator:
    """Return the creator of a root. ``make`` makes the open, with the access that it gets."""

    def create(request: Request, body: CreateRequest) -> None:
        granted = _granted(body)
        answer(request, body, make(request, granted), allowed=int(READ_RIGHTS), action=CreateAction.OPENED)

    return Creator(lambda name: not name, create)


def _granted(body: CreateRequest) -> int:
    """Return the access that the open gets. Raise StatusError if the CREATE asks for something that no root allows."""
    check_not_deleted(body)
    if body.options & CreateOptions.NON_DIRECTORY_FILE:
        raise StatusError(NtStatus.FILE_IS_A_DIRECTORY, "the root is a directory")
    if body.disposition == CreateDisposition.CREATE:
        raise StatusError(NtStatus.OBJECT_NAME_COLLISION, "the root exists already")
    if body.disposition in OVERWRITES:
        raise StatusError(NtStatus.INVALID_PARAMETER, "a directory cannot be overwritten")
    allowed = int(READ_RIGHTS)
    granted = expand_access(body.desired_access, allowed)
    # A program that opens with all generic rights does not mean to make files.
    if not body.desired_access & WRITE_RIGHTS:
        granted &= ~int(WRITE_RIGHTS)
    if granted & ~allowed:
        raise StatusError(NtStatus.ACCESS_DENIED, f"access 0x{granted:x} to the root is not allowed")
    return granted
