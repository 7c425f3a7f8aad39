"""CHANGE_NOTIFY, QUERY_INFO and SET_INFO (MS-SMB2 3.3.5.19 to 3.3.5.21)."""

from typing import Final

from meshfs.errors import StatusError
from meshfs.exporter.exchange.request import Request
from meshfs.exporter.kinds.kind import Kind, find_open
from meshfs.exporter.rules.holdings import Resource
from meshfs.exporter.state.directory import Directory
from meshfs.smb.constants import InfoType, NtStatus
from meshfs.smb.info import (
    Output,
    SetMode,
    changed_mode,
    parse_change,
    query_file,
    query_filesystem,
    query_security,
)
from meshfs.smb.messages import (
    ChangeNotifyRequest,
    ChangeNotifyResponse,
    ErrorResponse,
    QueryInfoRequest,
    QueryInfoResponse,
    SetInfoRequest,
    SetInfoResponse,
)

_ERROR: Final = 0xC0000000
#: SMB2_WATCH_TREE (MS-SMB2 2.2.35).
_WATCH_TREE: Final = 0x0001


def change_notify(request: Request) -> None:
    """Answered when something in the directory changes, or below it where that is asked for."""
    body = ChangeNotifyRequest.unpack(request.message.body)
    opened = find_open(request, *body.file_id)
    request.check_charge(body.output_bytes_max)
    directory = opened.as_listable()
    opened.watch(
        body.completion_filter, whole_tree=bool(body.flags & _WATCH_TREE), output_bytes_max=body.output_bytes_max
    )
    if directory.has_changes:
        _tell_changes(request, directory, body.output_bytes_max)
        return

    def tell() -> None:
        abort()
        _tell_changes(request, directory, body.output_bytes_max)

    def abort() -> None:
        opened.waits.discard(waiting)
        del directory.watchers[tell]
        holdings.give_back(Resource.NOTIFIES)

    holdings = request.session.holdings
    waiting = holdings.take_for(lambda: request.wait(abort), Resource.NOTIFIES)
    opened.waits.add(waiting)
    directory.watchers[tell] = None


def _tell_changes(request: Request, directory: Directory, output_bytes_max: int) -> None:
    """Answer a CHANGE_NOTIFY with the changes, or with the demand to list the directory again."""
    changes = directory.take(output_bytes_max)
    if changes is None:
        request.reply(ChangeNotifyResponse(b"").pack(), NtStatus.NOTIFY_ENUM_DIR)
    else:
        request.reply(ChangeNotifyResponse(changes).pack())


def query_info(request: Request) -> None:
    body = QueryInfoRequest.unpack(request.message.body)
    opened = find_open(request, *body.file_id)
    request.check_charge(max(body.output_bytes_max, len(body.input)))
    output = _output(request, opened, body)
    if output.status & _ERROR == _ERROR:
        data = ErrorResponse.with_context(output.data) if output.data else ErrorResponse()
        request.reply(data.pack(), output.status)
    else:
        request.reply(QueryInfoResponse(output.data).pack(), output.status)


def _output(request: Request, opened: Kind, body: QueryInfoRequest) -> Output:
    if body.info_type == InfoType.FILE:
        return query_file(body.info_class, opened.file_facts(request), body.output_bytes_max, opened.facts())
    if body.info_type == InfoType.FILESYSTEM:
        return query_filesystem(body.info_class, opened.volume_facts(request), body.output_bytes_max)
    if body.info_type == InfoType.SECURITY:
        return query_security(body.additional, opened.access, opened.allowed, body.output_bytes_max)
    return Output(NtStatus.NOT_SUPPORTED if body.info_type == InfoType.QUOTA else NtStatus.INVALID_PARAMETER)


def set_info(request: Request) -> None:
    body = SetInfoRequest.unpack(request.message.body)
    opened = find_open(request, *body.file_id)
    request.check_charge(len(body.buffer))
    if body.info_type != InfoType.FILE:
        raise StatusError(NtStatus.ACCESS_DENIED, f"SET_INFO of type {body.info_type}")
    change = parse_change(body.info_class, body.buffer)
    if isinstance(change, NtStatus):
        raise StatusError(change, f"SET_INFO class {body.info_class}")
    if isinstance(change, SetMode):
        _set_mode(opened, change.mode)
    else:
        opened.set_info(request, change)
    request.reply(SetInfoResponse().pack())


def _set_mode(opened: Kind, wanted: int) -> None:
    mode = changed_mode(opened.mode, wanted)
    if mode is None:
        raise StatusError(NtStatus.INVALID_PARAMETER, f"mode 0x{wanted:x}")
    opened.set_mode(mode)
