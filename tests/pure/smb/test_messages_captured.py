"""Messages that other implementations sent are understood, and what we pack from them means the same."""

from pathlib import Path

import pytest

from meshfs.smb import messages

LINES = (Path(__file__).parent / "captured_messages.txt").read_text().splitlines()
CAPTURED = [line.split() for line in LINES if not line.startswith("#")]


@pytest.mark.parametrize(("who", "kind", "body"), CAPTURED, ids=[f"{who}-{kind}" for who, kind, _ in CAPTURED])
def test_every_captured_message_is_understood(who: str, kind: str, body: str) -> None:
    decoder = getattr(messages, kind)
    message = decoder.unpack(bytes.fromhex(body))
    assert decoder.unpack(message.pack()) == message


def parsed(kind: str) -> list[tuple[str, object]]:
    return [(who, getattr(messages, name).unpack(bytes.fromhex(body))) for who, name, body in CAPTURED if name == kind]


def test_known_values_of_captured_messages_are_read() -> None:
    """A few values are known from what was done during the capture."""
    shares = {message.share() for _, message in parsed("TreeConnectRequest")}
    assert shares == {"IPC$", "disks"}
    patterns = {(who, message.pattern) for who, message in parsed("QueryDirectoryRequest")}
    assert {("smbclient", "*"), ("smbclient", "d*")} <= patterns
    dialects = {who: message.dialects for who, message in parsed("NegotiateRequest")}
    assert dialects["smbclient"] == (0x0300, 0x0302, 0x0311)
    (interfaces,) = [message.output for _, message in parsed("IoctlResponse") if message.ctl_code == 0x001401FC]
    assert [str(interface.address) for interface in messages.unpack_interfaces(interfaces)] == ["127.0.0.1", "::1"]
