"""The exporter's end of one connection, played by a test: it reads requests and sends what the test's script says.

The channel at the other end is already logged in: both ends share the keys of `SESSION_ID`.
"""

import math
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from meshfs.buffers import BufferPool
from meshfs.initiator.channel.channel import Channel
from meshfs.smb.connection import Message, Role
from meshfs.smb.constants import Cipher, Command, Dialect, SigningAlgorithm
from meshfs.smb.messages import EchoResponse, ErrorResponse
from meshfs.smb.security import ChannelSecurity, channel_security
from meshfs.transport.stream import StreamTransport
from meshlab.smb.byte_connection import ByteConnection
from meshlab.smb.raw_client import freed
from meshlab.suites.ends import receivable

SESSION_ID = 0x77
_READ = struct.Struct("<HBBIII")
_WRITE = struct.Struct("<HHIIHH")

Script = Callable[["ScriptedExporter", "Request"], None]


@dataclass(frozen=True)
class Request:
    """Holds a copy of a received request."""

    command: int
    message_id: int
    credit_charge: int
    tree_id: int
    body: bytes


class ScriptedExporter:
    """Calls ``script`` for every request. The script sends any bytes as an answer, or none."""

    def __init__(self, sock: socket.socket, script: Script, key: bytes, *, sealed: bool) -> None:
        self.transport = StreamTransport(sock)
        self.connection = ByteConnection(Role.EXPORTER, BufferPool())
        # The script may answer a request more than once, so this signer must be allowed to repeat a nonce.
        self.security = freed(_security(key, exporter=True))
        self.connection.security[SESSION_ID] = self.security
        self.script = script
        self.sealed = sealed
        self.requests: list[Request] = []

    async def run(self) -> None:
        while True:
            try:
                await receivable(self.transport)
                count = self.transport.receive_into(self.connection.get_buffer())
            except OSError:
                return
            if not count:
                return
            for message in self.connection.received(count):
                self._take(message)

    def _take(self, message: Message) -> None:
        request = Request(
            message.command, message.message_id, message.credit_charge, message.tree_id, bytes(message.body)
        )
        self.requests.append(request)
        self.script(self, request)

    # --- answers -----------------------------------------------------------------------

    def frame(
        self,
        request: Request,
        body: bytes,
        *,
        status: int = 0,
        flags: int = 0,
        credits: int = 64,
        message_id: int | None = None,
        command: int | None = None,
        async_id: int | None = None,
        protect: bool = True,
    ) -> bytes:
        """Return a whole reply to ``request``, with the faults that the arguments ask for."""
        security = self.security if protect else None
        return bytes(
            self.connection.pack(
                request.command if command is None else command,
                body,
                status=status,
                flags=flags,
                credits=credits,
                message_id=request.message_id if message_id is None else message_id,
                tree_id=request.tree_id,
                async_id=async_id,
                session_id=SESSION_ID,
                sign=None if self.sealed else security,
                seal=security if self.sealed else None,
            )
        )

    def say(self, data: bytes) -> None:
        """Send raw bytes, which have to fit into the socket's buffer."""
        sent = self.transport.send((data,))
        assert sent == len(data), "the script sends more than the socket takes at once"

    def answer(self, request: Request) -> None:
        """Send the correct reply: ``content`` for READ, success for WRITE and ECHO, a refusal for the rest."""
        if request.command == Command.READ:
            length, offset = struct.unpack_from("<IQ", request.body, 4)
            self.say(self.frame(request, read_body(content(offset, length))))
        elif request.command == Command.WRITE:
            (length,) = struct.unpack_from("<I", request.body, 4)
            self.say(self.frame(request, write_body(length)))
        elif request.command == Command.ECHO:
            self.say(self.frame(request, EchoResponse().pack()))
        elif request.command != Command.CANCEL:
            self.say(self.frame(request, ErrorResponse().pack(), status=0xC00000BB))


def content(offset: int, length: int) -> bytes:
    """Return the data of a correct READ response, in which every byte depends on its offset."""
    return bytes((offset + index) * 31 % 251 for index in range(length))


def read_body(data: bytes, *, length: int | None = None, offset: int = 80, size: int = 17) -> bytes:
    return _READ.pack(size, offset, 0, len(data) if length is None else length, 0, 0) + data


def write_body(count: int, *, size: int = 17) -> bytes:
    return _WRITE.pack(size, 0, count, 0, 0, 0)


def _security(key: bytes, *, exporter: bool) -> ChannelSecurity:
    return channel_security(
        Dialect.SMB_3_1_1,
        SigningAlgorithm.AES_GMAC,
        Cipher.AES_128_GCM,
        key,
        bytes(64),
        SESSION_ID,
        exporter=exporter,
    )


@asynccontextmanager
async def scripted_channel(
    script: Script, *, sign: bool = True, sealed: bool = False
) -> AsyncIterator[tuple[Channel, ScriptedExporter]]:
    """Yield a running channel that is logged in to a scripted exporter."""
    ours, theirs = socket.socketpair()
    key = os.urandom(16)
    channel = Channel(StreamTransport(ours), BufferPool())
    channel.protect(_security(key, exporter=False), SESSION_ID, sign=sign, seal=sealed)
    # Scripts count the requests, so the channel must not send probing ECHOs of its own.
    channel.probe.delay.next_s = math.inf
    exporter = ScriptedExporter(theirs, script, key, sealed=sealed)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(channel.run)
        nursery.start_soon(exporter.run)
        try:
            yield channel, exporter
        finally:
            channel.fail("the test is over")
            exporter.transport.close()
            nursery.cancel_scope.cancel()
