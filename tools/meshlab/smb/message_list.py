"""The out queue of an end without a transport: messages stay in a list until a test takes them."""

from collections.abc import Callable

from meshfs.buffers import FRAMING_BYTES, Buffer
from meshfs.transport.base import Sent
from meshfs.transport.framing import pack_length


class MessageList:
    """Takes every message, and sends none."""

    def __init__(self) -> None:
        self.sent_bytes = 0
        self.unsent_bytes = 0
        self.unpooled_bytes = 0
        self._messages: list[tuple[bytes, Buffer | None]] = []

    def __len__(self) -> int:
        return len(self._messages)

    def add(
        self, frame: bytearray | memoryview, data: bytes | memoryview | None = None, buffer: Buffer | None = None
    ) -> int:
        pack_length(frame, 0, len(frame) + len(data or b"") - FRAMING_BYTES)
        message = bytes(frame) + bytes(data or b"")
        self._messages.append((message, buffer))
        self.unsent_bytes += len(message)
        return len(self._messages)

    def send(self, most_bytes: int | None = None) -> Sent:
        return Sent.FULL if self._messages else Sent.ALL

    def when_room(self, callback: Callable[[], None]) -> None:
        pass

    def take(self) -> list[bytes]:
        """Return the messages, each behind its length, and release their buffers."""
        messages = [message for message, _ in self._messages]
        self.drop()
        return messages

    def drop(self) -> None:
        for _, buffer in self._messages:
            if buffer is not None:
                buffer.release()
        self._messages.clear()
        self.unsent_bytes = 0
