"""Answers CHANGE_NOTIFY when something in a directory, or below it, changes (MS-SMB2 3.3.5.19, 3.3.4.4)."""

from typing import Final

from meshfs.exporter.exchange.request import Request
from meshfs.exporter.exchange.waiting import wait
from meshfs.exporter.kinds.kind import find_open
from meshfs.exporter.rules.holdings import Resource
from meshfs.exporter.state.directory import DirectoryState
from meshfs.smb.constants import NtStatus
from meshfs.smb.messages import ChangeNotifyRequest, ChangeNotifyResponse

#: SMB2_WATCH_TREE (MS-SMB2 2.2.35).
_WATCH_TREE: Final = 0x0001


def change_notify(request: Request) -> None:
    """Answer with the changes that are kept, or wait for the next change."""
    body = ChangeNotifyRequest.unpack(request.message.body)
    opened = find_open(request, *body.file_id)
    request.check_charge(body.output_bytes_max)
    directory = opened.as_listable()
    opened.watch(
        body.completion_filter, whole_tree=bool(body.flags & _WATCH_TREE), output_bytes_max=body.output_bytes_max
    )
    if directory.has_changes:
        _answer(request, directory, body.output_bytes_max)
        return

    def changed() -> None:
        abort()
        _answer(request, directory, body.output_bytes_max)

    def abort() -> None:
        opened.waits.discard(waiting)
        del directory.watchers[changed]
        holdings.give_back(Resource.NOTIFIES)

    holdings = request.session.holdings
    waiting = holdings.take_for(lambda: wait(request, abort), Resource.NOTIFIES)
    opened.waits.add(waiting)
    directory.watchers[changed] = None


def _answer(request: Request, directory: DirectoryState, output_bytes_max: int) -> None:
    """Answer a CHANGE_NOTIFY with the changes, or with the status that asks for a new listing."""
    changes = directory.take(output_bytes_max)
    if changes is None:
        request.reply(ChangeNotifyResponse(b"").pack(), NtStatus.NOTIFY_ENUM_DIR)
    else:
        request.reply(ChangeNotifyResponse(changes).pack())
