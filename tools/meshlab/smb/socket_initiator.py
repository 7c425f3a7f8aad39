"""A client of a test that is connected to an exporter over a socket."""

import socket
from typing import Self

from meshfs.transport.stream import tune
from meshlab.smb.raw_client import RawClient
from meshlab.smb.raw_messages import Reply


class SocketInitiator(RawClient):
    """Runs a client over a blocking socket, for threads and other processes. The end of the block closes the socket."""

    def __init__(self, address: str | tuple[str, int], timeout_s: float = 5.0, *, source: str = "") -> None:
        """Connect; ``source`` is the address of this machine that a TCP connection comes from."""
        super().__init__()
        self.socket = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
        try:
            self.socket.settimeout(timeout_s)
            # A mount tunes its sockets too. The buffers must hold the requests that an exporter leaves unread, because
            # this client receives no replies while it sends.
            tune(self.socket)
            if source:
                self.socket.bind((source, 0))
            self.socket.connect(address)
        except BaseException:
            self.socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def deliver(self, *frames: bytes | bytearray | memoryview) -> None:
        self.socket.sendall(b"".join(frames))

    def answered(self, message_id: int) -> bool:
        """Wait for the reply. Raises EOFError when the connection ends, and TimeoutError after the time-out."""
        while not super().answered(message_id):
            data = self.socket.recv(1 << 20)
            if not data:
                raise EOFError("the exporter closed the connection")
            self.replies.extend(self._receive(memoryview(data)))
        return True

    def take(self, message_id: int) -> Reply:
        self.answered(message_id)
        return super().take(message_id)
