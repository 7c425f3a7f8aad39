"""Answers QUERY_INFO with facts about a file, its volume, its security, or the open (MS-SMB2 3.3.5.20)."""

from typing import Final

from meshfs.exporter.exchange.request import Request
from meshfs.exporter.kinds.kind import Kind, find_open
from meshfs.smb.constants import InfoType, NtStatus
from meshfs.smb.info import Output, query_file, query_filesystem, query_security
from meshfs.smb.messages import ErrorResponse, QueryInfoRequest, QueryInfoResponse

# An NTSTATUS with both of these bits set is an error (MS-ERREF 2.3).
_ERROR: Final = 0xC0000000


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
