"""Makes the checks and the answer of CREATE that all kinds of opens share (MS-SMB2 3.3.5.9, 2.2.14)."""

from collections.abc import Callable
from struct import Struct
from typing import Final, NamedTuple

from meshfs import limits
from meshfs.errors import StatusError
from meshfs.exporter.exchange.request import Request
from meshfs.exporter.kinds.kind import Kind
from meshfs.exporter.rules.holdings import Resource
from meshfs.exporter.state.exporter import Exporter
from meshfs.exporter.state.session import Session
from meshfs.smb.constants import CreateAction, CreateOptions, NtStatus, OplockLevel
from meshfs.smb.info import mode_of
from meshfs.smb.messages import CreateContext, CreateRequest, CreateResponse, FileId

#: SMB2_CREATE_QUERY_MAXIMAL_ACCESS_RESPONSE and _QUERY_ON_DISK_ID (2.2.14.2.5, 2.2.14.2.9).
_MAXIMAL_ACCESS: Final = Struct("<II")
_ON_DISK_ID: Final = Struct("<QQ16x")


class Creator(NamedTuple):
    """Names the functions of a kind of opens.

    takes    returns whether a CREATE of that name, in a share of the kind, opens something of the kind
    create   answers such a CREATE, at once or later. It raises StatusError to refuse the CREATE
    tick     is called every KIND_TICK_S while a share of the kind is offered. It is None for a kind without such calls
    """

    takes: Callable[[str], bool]
    create: Callable[[Request, CreateRequest], None]
    tick: Callable[[Exporter], None] | None = None


def takes_all(_: str) -> bool:
    """Return True. The last kind of each share uses this function, and takes all names that are left."""
    return True


def check_not_deleted(body: CreateRequest) -> None:
    """Raise StatusError if a CREATE asks for deletion at its close. This is for kinds without deletion."""
    if body.options & CreateOptions.DELETE_ON_CLOSE:
        raise StatusError(NtStatus.ACCESS_DENIED, "nothing is deleted in this share")


def check_room(session: Session) -> None:
    """Raise StatusError if the session, or its node, has as many opens as it may have."""
    session.holdings.check(Resource.OPENS)
    if len(session.opens) >= limits.OPENS_PER_SESSION_MAX:
        raise StatusError(NtStatus.INSUFFICIENT_RESOURCES, "the session has too many opens")


def check_still_there(request: Request) -> None:
    """Raise StatusError if the session or the tree of a CREATE ended while the CREATE waited."""
    session, tree = request.session, request.tree
    if not session.serving:
        raise StatusError(NtStatus.USER_SESSION_DELETED, "the session ended meanwhile")
    if session.trees.get(tree.id) is not tree:
        raise StatusError(NtStatus.NETWORK_NAME_DELETED, "the tree was disconnected meanwhile")


def answer(
    request: Request,
    body: CreateRequest,
    opened: Kind,
    *,
    allowed: int,
    action: CreateAction,
    oplock_level: int = OplockLevel.NONE,
) -> None:
    """Add an open to its session, and answer the CREATE. ``allowed`` is the most access that the user could have."""
    request.session.opens[opened.file_id] = opened
    opened.allowed = allowed
    opened.set_mode(mode_of(body.options))
    opened.channel_sequence = request.message.channel_sequence
    request.open = opened
    if request.compound is not None:
        request.compound.file_id = opened.file_id
    facts = opened.file_facts(request)
    request.reply(
        CreateResponse(
            FileId(opened.file_id, opened.file_id),
            action,
            facts.size_bytes,
            facts.allocation_bytes,
            facts.attributes,
            facts.times,
            _contexts(body, allowed, facts.index_number, facts.volume_serial),
            oplock_level,
        ).pack()
    )


def _contexts(body: CreateRequest, allowed: int, index: int, volume: int) -> tuple[CreateContext, ...]:
    contexts: list[CreateContext] = []
    if body.context(b"MxAc") is not None:
        contexts.append((b"MxAc", _MAXIMAL_ACCESS.pack(NtStatus.SUCCESS, allowed)))
    if body.context(b"QFid") is not None:
        contexts.append((b"QFid", _ON_DISK_ID.pack(index, volume)))
    return tuple(contexts)
