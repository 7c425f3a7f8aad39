"""A middleman between an initiator and an exporter, who changes messages on their way."""

import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import trio

from meshfs.smb.constants import Cipher, Command, Flags, SigningAlgorithm
from meshfs.smb.messages import Encryption, NegotiateRequest, NegotiateResponse, Signing
from meshfs.transport.base import Transport
from meshfs.transport.stream import StreamTransport
from meshlab.smb.fixed_ways import Dialer

#: Gets whether a message is a reply, and the message without its prefix. Returns the message to pass on.
Change = Callable[[bool, bytes], bytes]


async def _relay(source: trio.SocketStream, target: trio.SocketStream, reply: bool, change: Change) -> None:
    """Pass whole messages on, each as ``change`` returns it."""
    rest = b""
    async for data in source:
        rest += data
        while len(rest) >= 4 and len(rest) >= 4 + int.from_bytes(rest[:4], "big"):
            end = 4 + int.from_bytes(rest[:4], "big")
            message, rest = change(reply, rest[4:end]), rest[end:]
            await target.send_all(len(message).to_bytes(4, "big") + message)


def middleman(path: Path, nursery: trio.Nursery, change: Change) -> Dialer:
    async def dial() -> Transport:
        ours, theirs = socket.socketpair()
        outside = trio.SocketStream(trio.socket.from_stdlib_socket(theirs))
        inside = trio.SocketStream(await _connect(path))

        async def serve() -> None:
            async with outside, inside, trio.open_nursery() as relays:
                relays.start_soon(_pump, outside, inside, False)
                relays.start_soon(_pump, inside, outside, True)

        async def _pump(source: trio.SocketStream, target: trio.SocketStream, reply: bool) -> None:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await _relay(source, target, reply, change)
            await outside.aclose()
            await inside.aclose()

        nursery.start_soon(serve)
        return StreamTransport(ours)

    return dial


async def _connect(path: Path) -> trio.socket.SocketType:
    sock = trio.socket.socket(socket.AF_UNIX)
    await sock.connect(str(path))
    return sock


def on_reply(command: Command, edit: Callable[[bytes], bytes]) -> Change:
    return lambda reply, message: edit(message) if reply and message[12] == command else message


def on_negotiate(edit: Callable[[Any], Any], *, reply: bool) -> Change:
    unpack = NegotiateResponse.unpack if reply else NegotiateRequest.unpack

    def change(is_reply: bool, message: bytes) -> bytes:
        if is_reply is not reply or message[12] != Command.NEGOTIATE:
            return message
        return message[:64] + edit(unpack(message[64:])).pack()

    return change


def last_setup(edit: Callable[[bytes], bytes]) -> Change:
    return on_reply(Command.SESSION_SETUP, lambda m: edit(m) if m[8:12] == bytes(4) else m)


def first_setup(edit: Callable[[bytes], bytes]) -> Change:
    return on_reply(Command.SESSION_SETUP, lambda m: edit(m) if m[8:12] != bytes(4) else m)


def unsigned(message: bytes) -> bytes:
    flags = int.from_bytes(message[16:20], "little") & ~Flags.SIGNED
    return message[:16] + flags.to_bytes(4, "little") + message[20:48] + bytes(16) + message[64:]


def with_signing(algorithm: SigningAlgorithm) -> Callable[[Any], Any]:
    return lambda r: replace(
        r, contexts=tuple(Signing((algorithm,)) if isinstance(c, Signing) else c for c in r.contexts)
    )


def with_cipher(cipher: Cipher) -> Callable[[Any], Any]:
    return lambda r: replace(
        r, contexts=tuple(Encryption((cipher,)) if isinstance(c, Encryption) else c for c in r.contexts)
    )
