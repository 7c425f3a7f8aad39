"""A channel against an exporter that sends wrong messages: whatever comes, no caller gets wrong data."""

from collections.abc import Callable
from random import Random

import pytest
import trio

from meshfs.errors import ChannelLost, StatusError
from meshfs.smb.constants import Command, Flags, NtStatus
from meshfs.smb.messages import ErrorResponse
from meshlab.smb.scripted_exporter import (
    Request,
    Script,
    ScriptedExporter,
    read_body,
    scripted_channel,
    write_body,
)
from support.scripted_calls import read, write

# --- lies ---------------------------------------------------------------------------------


def says(make: Callable[[ScriptedExporter, Request], bytes]) -> Script:
    return lambda exporter, request: exporter.say(make(exporter, request))


def _flip(frame: bytes, at: int) -> bytes:
    return frame[:at] + bytes([frame[at] ^ 1]) + frame[at + 1 :]


def _pending(exporter: ScriptedExporter, request: Request, *, flags: int = Flags.ASYNC_COMMAND) -> bytes:
    error = ErrorResponse().pack()
    return exporter.frame(request, error, status=NtStatus.PENDING, flags=flags, async_id=9, protect=False)


READ_LIES: dict[str, Callable[[ScriptedExporter, Request], bytes]] = {
    "unsigned": lambda e, r: e.frame(r, read_body(bytes(100)), protect=False),
    "unsigned error": lambda e, r: e.frame(r, ErrorResponse().pack(), status=NtStatus.IO_DEVICE_ERROR, protect=False),
    "wrong signature": lambda e, r: _flip(e.frame(r, read_body(bytes(100))), 4 + 50),
    "changed data": lambda e, r: _flip(e.frame(r, read_body(bytes(100))), -1 % 180),
    "too much data": lambda e, r: e.frame(r, read_body(bytes(101))),
    "length past the message": lambda e, r: e.frame(r, read_body(bytes(50), length=100)),
    "offset past the message": lambda e, r: e.frame(r, read_body(bytes(100), offset=200)),
    "offset into the header": lambda e, r: e.frame(r, read_body(bytes(100), offset=16)),
    "wrong structure size": lambda e, r: e.frame(r, read_body(bytes(100), size=18)),
    "truncated body": lambda e, r: e.frame(r, b"\x11\x00\x50"),
    "reply never asked for": lambda e, r: e.frame(r, read_body(bytes(100)), message_id=4711),
    "unsolicited": lambda e, r: e.frame(r, bytes(24), message_id=(1 << 64) - 1, command=Command.OPLOCK_BREAK),
    "answered twice": lambda e, r: 2 * e.frame(r, read_body(bytes(100))),
    "other command": lambda e, r: e.frame(r, write_body(100), command=Command.WRITE),
    "a request": lambda e, r: _flip(e.frame(r, read_body(bytes(100))), 4 + 16),
    "two interim replies": lambda e, r: 2 * _pending(e, r),
    "interim that is not asynchronous": lambda e, r: _pending(e, r, flags=0),
    "garbage": lambda e, r: b"\x00\x00\x00\x50" + bytes(80),
    "not SMB at all": lambda e, r: b"HTTP/1.1 400 Bad Request\r\n\r\n" + bytes(60),
    "endless frame": lambda e, r: b"\x00\xff\xff\xff",
    "compressed": lambda e, r: b"\x00\x00\x00\x50\xfcSMB" + bytes(76),
    "sealed without keys": lambda e, r: b"\x00\x00\x00\x90\xfdSMB" + bytes(140),
    "short frame": lambda e, r: b"\x00\x00\x00\x04\xfeSMB",
}


@pytest.mark.parametrize("name", READ_LIES)
async def test_a_lie_ends_the_channel_and_gives_no_data(name: str) -> None:
    lie = READ_LIES[name]
    with trio.fail_after(5):
        async with scripted_channel(says(lie)) as (channel, _):
            if name == "answered twice":
                # The first reply is right.
                assert await read(channel, 0, 100) == bytes(100)
                await trio.testing.wait_all_tasks_blocked()
            else:
                with pytest.raises(ChannelLost):
                    await read(channel, 0, 100)
            assert channel.why
            assert channel.closed
            with pytest.raises(ChannelLost):
                await read(channel, 0, 100)


@pytest.mark.parametrize("seed", range(200))
async def test_signed_nonsense_is_an_error_or_fits_what_was_asked(seed: int) -> None:
    """An exporter with the right keys may send anything. Callers get only the expected errors."""
    random = Random(seed)
    body = bytearray(read_body(bytes(random.randrange(200))))
    for _ in range(random.randrange(1, 4)):
        body[random.randrange(min(len(body), 20))] = random.randrange(256)
    body = body[: random.randrange(len(body) + 1)]
    status = random.choice((0, 0, 0, NtStatus.END_OF_FILE, NtStatus.PENDING, random.getrandbits(32)))
    reading = random.random() < 0.7
    async with scripted_channel(says(lambda e, r: e.frame(r, bytes(body), status=status))) as (channel, _):
        try:
            with trio.fail_after(5):
                result = await (read(channel, 0, 100) if reading else write(channel, 0, bytes(100)))
        except (ChannelLost, StatusError):
            return
        assert (len(result) if isinstance(result, bytes) else result) <= 100


WRITE_LIES: dict[str, Callable[[ScriptedExporter, Request], bytes]] = {
    "more than sent": lambda e, r: e.frame(r, write_body(101)),
    "nothing": lambda e, r: e.frame(r, write_body(0)),
    "unsigned": lambda e, r: e.frame(r, write_body(100), protect=False),
    "truncated": lambda e, r: e.frame(r, write_body(100)[:10]),
    "wrong structure size": lambda e, r: e.frame(r, write_body(100, size=16)),
}


@pytest.mark.parametrize("name", WRITE_LIES)
async def test_a_lie_about_a_write_is_no_success(name: str) -> None:
    with trio.fail_after(5):
        async with scripted_channel(says(WRITE_LIES[name])) as (channel, _):
            with pytest.raises(ChannelLost):
                await write(channel, 0, bytes(100))
            assert channel.closed


async def test_a_signed_reply_is_refused_where_encryption_was_agreed() -> None:
    def script(exporter: ScriptedExporter, request: Request) -> None:
        exporter.sealed = False
        exporter.answer(request)

    async with scripted_channel(script, sealed=True) as (channel, _):
        with pytest.raises(ChannelLost, match="less than agreed"):
            await read(channel, 0, 100)


async def test_a_wrong_signature_is_refused_also_without_signing() -> None:
    async with scripted_channel(says(READ_LIES["wrong signature"]), sign=False) as (channel, _):
        with pytest.raises(ChannelLost, match="wrong signature"):
            await read(channel, 0, 100)
