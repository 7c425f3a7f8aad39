"""Messages: whole, truncated and with trailing data, and what a malformed message must not do."""

import dataclasses
import struct
from typing import Any

import pytest

from meshfs import limits
from meshfs.errors import LocalProtocolError, RemoteProtocolError
from meshfs.smb import messages as m
from meshlab.smb.samples import CONTEXTS_311, FILE, GUID, INTERFACES, MESSAGES, sample_id

everyone = pytest.mark.parametrize("message", MESSAGES, ids=sample_id)


@everyone
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_comes_back_as_it_was(message: Any, kind: Any) -> None:
    assert type(message).unpack(kind(message.pack())) == message


@everyone
def test_trailing_data_is_ignored(message: Any) -> None:
    assert type(message).unpack(message.pack() + b"\xff" * 9) == message


@everyone
def test_a_truncated_message_never_has_another_value(message: Any) -> None:
    """A truncated message gives an error or, if only padding is lost, the same message, and never another value."""
    body = message.pack()
    for length in range(len(body) - 1):
        with pytest.raises(RemoteProtocolError):
            type(message).unpack(body[:length])
    try:
        assert type(message).unpack(body[:-1]) == message
    except RemoteProtocolError:
        assert body


@everyone
def test_structure_size_is_checked(message: Any) -> None:
    body = bytearray(message.pack())
    body[0] ^= 1
    with pytest.raises(RemoteProtocolError, match="StructureSize"):
        type(message).unpack(body)


def every_message_is_sampled() -> set[str]:
    return {name for name in m.__all__ if name.endswith(("Request", "Response", "Break"))}


def test_samples_are_complete() -> None:
    payloads = {"ValidateNegotiateRequest", "ValidateNegotiateResponse"}
    assert every_message_is_sampled() - payloads == {type(message).__name__ for message in MESSAGES}


# --- NEGOTIATE -------------------------------------------------------------------------

SMB1 = m.Smb1Negotiate((b"NT LM 0.12", b"SMB 2.002", b"SMB 2.???"))


def test_smb_1_comes_back_as_it_was() -> None:
    packed = SMB1.pack()
    assert packed[:5] == b"\xffSMBr"
    assert packed[32:] == b"\x00\x22\x00\x02NT LM 0.12\x00\x02SMB 2.002\x00\x02SMB 2.???\x00"
    assert m.Smb1Negotiate.unpack(memoryview(packed + b"trailing")) == SMB1
    assert m.Smb1Negotiate.unpack(m.Smb1Negotiate(()).pack()) == m.Smb1Negotiate(())


def test_smb_1_truncated_anywhere() -> None:
    for length in range(len(SMB1.pack())):
        with pytest.raises(RemoteProtocolError):
            m.Smb1Negotiate.unpack(SMB1.pack()[:length])


@pytest.mark.parametrize(
    ("position", "value"),
    [
        pytest.param(0, 0xFE, id="protocol"),
        pytest.param(4, 0x73, id="another-command"),
        pytest.param(9, 0x80, id="a-reply"),
        pytest.param(32, 1, id="words"),
        pytest.param(33, 0x23, id="too-many-bytes"),
        pytest.param(33, 0x21, id="no-end-of-the-last"),
        pytest.param(35, 0x03, id="another-kind-of-string"),
    ],
)
def test_smb_1_that_is_wrong(position: int, value: int) -> None:
    packed = bytearray(SMB1.pack())
    packed[position] = value
    with pytest.raises(RemoteProtocolError):
        m.Smb1Negotiate.unpack(packed)


@pytest.mark.parametrize("count", range(6))
def test_any_number_of_dialects(count: int) -> None:
    request = m.NegotiateRequest((0x0300, 0x0302, 0x0210, 0x0202, 0x0311)[:count], 1, 0, GUID, ())
    assert m.NegotiateRequest.unpack(request.pack()) == request
    if 0x0311 in request.dialects:
        request = dataclasses.replace(request, contexts=CONTEXTS_311)
        assert m.NegotiateRequest.unpack(request.pack()) == request


def test_contexts_mean_nothing_without_311() -> None:
    """The fields are then ClientStartTime, and may have any value."""
    body = bytearray(m.NegotiateRequest((0x0302,), 1, 0, GUID).pack())
    body[28:36] = b"\xff" * 8
    assert m.NegotiateRequest.unpack(body).contexts == ()


def test_only_one_context_of_a_kind() -> None:
    request = m.NegotiateRequest((0x0311,), 1, 0, GUID, (m.Signing((1,)), m.Signing((2,)), m.Encryption((2,))))
    assert m.only_context(request.contexts, m.Encryption) == m.Encryption((2,))
    assert m.only_context(request.contexts, m.NetName) is None
    with pytest.raises(RemoteProtocolError, match="2 contexts"):
        m.only_context(request.contexts, m.Signing)


@pytest.mark.parametrize(
    "context",
    [
        m.RawContext(1, b""),
        m.RawContext(1, b"\0\0\0\0"),
        m.RawContext(1, b"\x01\0\x20\0\x01\0"),
        m.RawContext(2, b"\x01"),
        m.RawContext(2, b"\0\0"),
        m.RawContext(2, b"\xff\xff\x01\0"),
        m.RawContext(8, b"\x02\0\x01\0"),
        m.RawContext(5, b"\0\xd8"),
        m.RawContext(5, b"a"),
    ],
    ids=repr,
)
def test_malformed_context(context: m.RawContext) -> None:
    body = m.NegotiateRequest((0x0311,), 1, 0, GUID, (context,)).pack()
    with pytest.raises(RemoteProtocolError):
        m.NegotiateRequest.unpack(body)


def test_counts_are_bounded() -> None:
    many = (m.RawContext(9, b""),) * (limits.NEGOTIATE_CONTEXTS_MAX + 1)
    with pytest.raises(RemoteProtocolError, match="contexts"):
        m.NegotiateRequest.unpack(m.NegotiateRequest((0x0311,), 1, 0, GUID, many).pack())
    dialects = (0x0300,) * (limits.NEGOTIATE_DIALECTS_MAX + 1)
    with pytest.raises(RemoteProtocolError, match="dialects"):
        m.NegotiateRequest.unpack(m.NegotiateRequest(dialects, 1, 0, GUID).pack())
    locks = (m.LockElement(0, 1, 2),) * (limits.LOCKS_PER_OPEN_MAX + 1)
    with pytest.raises(RemoteProtocolError, match="locks"):
        m.LockRequest.unpack(m.LockRequest(FILE, locks).pack())
    contexts = ((b"QFid", b""),) * (limits.CREATE_CONTEXTS_MAX + 1)
    with pytest.raises(RemoteProtocolError, match="contexts"):
        m.unpack_create_contexts(m.pack_create_contexts(contexts))
    with pytest.raises(RemoteProtocolError, match="interfaces"):
        m.unpack_interfaces(m.pack_interfaces(INTERFACES * limits.NETWORK_INTERFACES_MAX))


# --- offsets ---------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0, 1, 64, 87, 95, 200, 0xFFFF])
def test_a_buffer_lies_behind_the_fixed_part_and_inside(offset: int) -> None:
    body = bytearray(m.SessionSetupRequest(0, 1, 0, b"token").pack())
    struct.pack_into("<H", body, 12, offset)
    with pytest.raises(RemoteProtocolError, match="outside"):
        m.SessionSetupRequest.unpack(body)


def test_an_empty_buffer_may_have_any_offset() -> None:
    body = bytearray(m.SessionSetupRequest(0, 1, 0, b"").pack())
    struct.pack_into("<H", body, 12, 0xFFFF)
    assert m.SessionSetupRequest.unpack(body).security_buffer == b""


def test_requests_have_their_one_byte_of_buffer() -> None:
    for request in (m.CreateRequest("", 1, 7, 1), m.QueryInfoRequest(FILE, 1, 4, 40), m.ErrorResponse()):
        body = request.pack()
        assert len(body) == int.from_bytes(body[:2], "little")


def test_unaligned_negotiate_contexts_behind_an_odd_security_buffer() -> None:
    """A sender that does not align the first context is understood."""
    aligned = m.NegotiateResponse(1, 0x0311, GUID, 0, 1, 1, 1, 1, b"", (m.Signing((2,)),))
    body = bytearray(aligned.pack())
    body[64:64] = b"\0\0\0"
    struct.pack_into("<I", body, 60, 128 + 3)
    assert m.NegotiateResponse.unpack(body).contexts == aligned.contexts


# --- create contexts -------------------------------------------------------------------


def test_create_contexts_are_aligned() -> None:
    chain = m.pack_create_contexts(((b"MxAc", b""), (GUID, b"abc"), (b"QFid", b"")))
    start = 0
    while True:
        following, name_offset, _, _, data_offset, _ = struct.unpack_from("<IHHHHI", chain, start)
        assert name_offset % 8 == data_offset % 8 == following % 8 == 0
        if not following:
            break
        start += following


NAME_OFFSET, NAME_LENGTH, DATA_OFFSET, DATA_LENGTH = 4, 6, 10, 12


@pytest.mark.parametrize("following", [1, 8, 15, 49, 56, 0x7FFFFFFF, 0xFFFFFFFF])
def test_next_of_a_create_context(following: int) -> None:
    """The offset may point neither into the context's own head nor past the chain of 24 and 20 bytes."""
    chain = bytearray(m.pack_create_contexts(((b"MxAc", b""), (b"QFid", b""))))
    assert len(chain) == 24 + 20
    struct.pack_into("<I", chain, 0, following)
    with pytest.raises(RemoteProtocolError, match="Next"):
        m.unpack_create_contexts(bytes(chain))


@pytest.mark.parametrize(
    ("field", "form", "number"),
    [
        (NAME_OFFSET, "<H", 15),
        (NAME_OFFSET, "<H", 0),
        (NAME_OFFSET, "<H", 29),
        (NAME_LENGTH, "<H", 17),
        (NAME_LENGTH, "<H", 0xFFFF),
        (DATA_OFFSET, "<H", 15),
        (DATA_OFFSET, "<H", 25),
        (DATA_LENGTH, "<I", 9),
        (DATA_LENGTH, "<I", 0xFFFFFFFF),
    ],
)
@pytest.mark.parametrize("contexts", [1, 2])
def test_a_create_context_stays_within_its_element(field: int, form: str, number: int, contexts: int) -> None:
    """The parts of a context lie behind its head and before the next context, which begins at 32."""
    chain = bytearray(m.pack_create_contexts(((b"AlSi", b"12345678"), (b"QFid", b"12345678"))[:contexts]))
    struct.pack_into(form, chain, field, number)
    with pytest.raises(RemoteProtocolError, match="outside its element"):
        m.unpack_create_contexts(bytes(chain))


def test_create_context_of_a_name() -> None:
    request = m.CreateRequest("a", 1, 7, 1, contexts=((b"AlSi", b"12345678"), (b"MxAc", b"")))
    assert request.context(b"AlSi") == b"12345678"
    assert request.context(b"MxAc") == b""
    assert request.context(b"QFid") is None


# --- the rest --------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["", "disks", "\\\\n1", "\\\\n1\\", "\\n1\\disks", "\\\\n1\\disks\\x", "a\\b\\c\\d"])
def test_share_path(path: str) -> None:
    assert m.TreeConnectRequest("\\\\n1\\IPC$").share() == "IPC$"
    with pytest.raises(RemoteProtocolError):
        m.TreeConnectRequest(path).share()


def test_names_must_be_utf16() -> None:
    body = bytearray(m.CreateRequest("ab", 1, 7, 1).pack())
    body[56:60] = b"\x00\xd8\x41\x00"
    with pytest.raises(RemoteProtocolError, match="UTF-16"):
        m.CreateRequest.unpack(body)
    with pytest.raises(LocalProtocolError):
        m.CreateRequest("\ud800", 1, 7, 1).pack()


def test_ioctl_input_and_output_of_a_request_are_both_checked() -> None:
    body = bytearray(m.IoctlRequest(1, FILE, b"input", 8).pack())
    struct.pack_into("<II", body, 36, 120, 1000)
    with pytest.raises(RemoteProtocolError, match="output"):
        m.IoctlRequest.unpack(body)


def test_error_data_with_a_context_has_its_length_and_the_default_kind_before_it() -> None:
    response = m.ErrorResponse.with_context(b"1234")
    assert (response.data, response.context_count) == (struct.pack("<II", 4, 0) + b"1234", 1)


def test_break_acknowledgments_are_told_apart() -> None:
    for message in (m.OplockBreak(FILE, 1), m.LeaseBreak(GUID, 3)):
        assert m.unpack_break_acknowledgment(message.pack()) == message
    for body in (b"", b"\x24", b"\x24\0", b"\x18\0" + bytes(10)):
        with pytest.raises(RemoteProtocolError):
            m.unpack_break_acknowledgment(body)


def test_notifications() -> None:
    changes = ((1, "disk0"), (2, "d"), (3, "disk-12"))
    chain = m.pack_notifications(changes)
    assert m.unpack_notifications(chain) == changes
    assert m.unpack_notifications(b"") == ()
    for length in range(1, len(chain)):
        with pytest.raises(RemoteProtocolError):
            m.unpack_notifications(chain[:length])
    for following in (1, 4, 11, 1 << 31):
        with pytest.raises(RemoteProtocolError):
            m.unpack_notifications(following.to_bytes(4, "little") + bytes(64))


def test_interfaces() -> None:
    chain = m.pack_interfaces(INTERFACES)
    assert len(chain) == 2 * 152
    assert m.unpack_interfaces(chain) == INTERFACES
    for length in range(len(chain)):
        with pytest.raises(RemoteProtocolError):
            m.unpack_interfaces(chain[:length])
    for following in (1, 151, 153, 1 << 31):
        with pytest.raises(RemoteProtocolError):
            m.unpack_interfaces(following.to_bytes(4, "little") + chain[4:])


def test_validate_negotiate() -> None:
    request = m.ValidateNegotiateRequest(0x7F, GUID, 1, (0x0300, 0x0302))
    response = m.ValidateNegotiateResponse(0x7F, GUID, 1, 0x0302)
    for message in (request, response):
        packed = message.pack()
        assert type(message).unpack(packed + b"more") == message
        for length in range(len(packed)):
            with pytest.raises(RemoteProtocolError):
                type(message).unpack(packed[:length])
