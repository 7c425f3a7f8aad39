"""A wiretap on a mount's connections. It records what each sent and received, and adds frames in either direction."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

from meshfs.initiator.remote.plan import Path as MeshPath
from meshfs.smb.constants import Flags
from meshfs.transport.base import Memory, Transport
from meshfs.transport.stream import StreamTransport, connect_unix
from meshlab.smb.fixed_ways import FixedWays
from meshlab.smb.frames import PREFIX_BYTES, FrameSplitter


def messages(data: bytes) -> list[bytes]:
    """Return the whole messages of a stream, plain or encrypted, without their length prefixes."""
    return [frame[PREFIX_BYTES:] for frame in FrameSplitter().feed(data)]


def command(message: bytes) -> int:
    return int.from_bytes(message[12:14], "little")


def message_id(message: bytes) -> int:
    return int.from_bytes(message[24:32], "little")


def is_signed(message: bytes) -> bool:
    """Return whether the message has a signature, whatever its flag says."""
    return bool(message[16] & Flags.SIGNED) and any(message[48:64])


class Recorded:
    """Records what one connection of the mount sent and received."""

    def __init__(self) -> None:
        self.sent = bytearray()
        self.received = bytearray()
        #: The mount receives these bytes before any others.
        self.injected = bytearray()
        self.transport: StreamTransport | None = None
        self._send: Callable[[Sequence[Memory]], int] = _nothing

    async def dial(self, path: Path) -> Transport:
        transport = await connect_unix(path)
        send, receive_into = transport.send, transport.receive_into
        self.transport, self._send = transport, send

        def sending(parts: Sequence[Memory]) -> int:
            count = send(parts)
            self.sent += b"".join(bytes(part) for part in parts)[:count]
            return count

        def receiving(memory: memoryview) -> int:
            if self.injected:
                count = min(len(memory), len(self.injected))
                memory[:count] = self.injected[:count]
                del self.injected[:count]
                return count
            count = receive_into(memory)
            self.received += memory[:count]
            return count

        transport.send, transport.receive_into = sending, receiving
        return transport

    def say_to_exporter(self, frame: bytes) -> None:
        """Put a frame into what the mount sends. The mount must not be in the middle of another frame."""
        assert self._send((frame,)) == len(frame)


class RecordedWays(FixedWays):
    """Gives every connection its own wiretap."""

    def __init__(self, path: Path, channels: int = 2) -> None:
        super().__init__([functools.partial(connect_unix, path)] * channels, asks=True)
        self.tapped: list[Recorded] = []
        self._path = path

    async def dial(self, path: MeshPath) -> Transport:
        del path
        self.tapped.append(Recorded())
        return await self.tapped[-1].dial(self._path)


def _nothing(_: Sequence[Memory]) -> int:
    raise AssertionError("nothing is connected yet")
