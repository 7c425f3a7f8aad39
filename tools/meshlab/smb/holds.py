"""Requests that a proxy holds: a test waits for such a request, and later sends it to the exporter."""

import socket
import threading
import time
from collections.abc import Callable
from typing import TypeAlias

from meshfs.smb.constants import NtStatus
from meshlab.smb.frame_relay import RECEIVE_BYTES, WAIT_S, FrameRelay, Unanswered
from meshlab.smb.frames import FrameSplitter, Message, messages

#: Returns whether a request is the wanted one.
Wanted: TypeAlias = Callable[[Message], bool]
#: Makes a connection to the exporter. Raises OSError.
Connect: TypeAlias = Callable[[], socket.socket]


class Held:
    """Holds a request that did not pass. Its connection is frozen from this request on."""

    def __init__(self, relay: FrameRelay, message: Message, connect: Connect) -> None:
        self.relay = relay
        self._connect = connect
        #: The wanted message. Its frame and all later frames are held.
        self.message = message

    def release(self) -> None:
        """Send all held frames to the exporter, unchanged, on the frozen connection.

        The replies don't pass to the initiator. Raises Unanswered when the connection to the exporter is gone.
        """
        self.relay.release()

    def status(self, timeout_s: float = WAIT_S) -> int:
        """Return the status of the exporter's final answer to the message, after `release`, or raise Unanswered."""
        return self.relay.status(self.message.message_id, timeout_s)

    def release_anew(self, timeout_s: float = WAIT_S) -> int:
        """Send all held frames over a new connection, as after a restart. Return the status, or raise Unanswered."""
        deadline = time.monotonic() + timeout_s
        splitter = FrameSplitter()
        try:
            with self._connect() as stream:
                stream.sendall(self.relay.held())
                while True:
                    stream.settimeout(max(0.001, deadline - time.monotonic()))
                    data = stream.recv(RECEIVE_BYTES)
                    if not data:
                        raise Unanswered("the exporter closed the new connection")
                    for answer in [each for frame in splitter.feed(data) for each in messages(frame)]:
                        if answer.message_id == self.message.message_id and answer.status != NtStatus.PENDING:
                            return answer.status
        except OSError as error:
            raise Unanswered(f"the new connection: {error}") from error


class Hold:
    """Waits for one request that the proxy is to hold."""

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted
        self._came = threading.Event()
        self._held: Held | None = None

    def catch(self, held: Held) -> None:
        self._held = held
        self._came.set()

    def wait(self, timeout_s: float = WAIT_S) -> Held:
        """Wait for the request, and return it. Raises TimeoutError when no such request came in time."""
        if not self._came.wait(timeout_s):
            raise TimeoutError(f"no request to hold came within {timeout_s:g} s")
        assert self._held is not None
        return self._held
