"""Receives and parses the messages of a channel. Any error in them ends the channel."""

import errno
import logging
from collections.abc import Callable

from meshfs import bugs, limits
from meshfs.buffers import Frame
from meshfs.errors import ForgedMessage, RemoteProtocolError, RepeatedNonce
from meshfs.initiator.channel.lent import LentMemory
from meshfs.loop import reactor
from meshfs.smb.connection import Message
from meshfs.transport.base import EndOfStream, Inlet, Transport

logger = logging.getLogger(__name__)


class Inbox:
    """Receives the messages of one channel in batches, and hands each to ``handle``."""

    def __init__(
        self,
        transport: Transport,
        inlet: Inlet,
        parse: Callable[[Frame], Message],
        lent: LentMemory,
        *,
        handle: Callable[[Message], None],
        handled: Callable[[], None],
        fail: Callable[[str], None],
    ) -> None:
        """``handle`` gets every message, ``handled`` is called after each batch, and ``fail`` ends the channel."""
        #: Is set when a whole message was received, which is a sign of life.
        self.heard = False
        #: The number of messages with a wrong signature or seal. Each of them ends the channel.
        self.bad_signatures = 0
        #: The number of those messages that were encrypted for another channel, or were received a second time.
        self.nonces_repeated = 0
        self._transport = transport
        self._inlet = inlet
        self._parse = parse
        self._lent = lent
        self._handle = handle
        self._handled = handled
        self._fail = fail
        self._reactor = reactor.current()

    @property
    def received_bytes(self) -> int:
        """Return how many bytes were received in all."""
        return self._inlet.received_bytes

    def readable(self) -> None:
        """Receive one batch. The transport calls this while there is something to receive."""
        turn, lent = self._reactor.turn, self._lent
        if turn != lent.turn:
            lent.recycle(turn)
        try:
            self._receive()
            self._transport.expect(self._inlet.missing_bytes)
            self._handled()
        except (ForgedMessage, RepeatedNonce) as error:
            self.bad_signatures += 1
            self.nonces_repeated += isinstance(error, RepeatedNonce)
            logger.warning("%s: %s", self._transport.remote, error)
            self._fail(str(error))
        except RemoteProtocolError as error:
            logger.warning("%s broke the protocol: %s", self._transport.remote, error)
            self._fail(f"the exporter broke the protocol: {error}")
        except OSError as error:
            self._fail(f"connection lost: {error.strerror or error}")
        except Exception as error:
            bugs.report(logger, "receiving from an exporter", error)
            self.fault(error)

    def fault(self, error: Exception) -> None:
        """End only this channel, because handling what it received failed by an internal error."""
        self._fail(f"internal error: {error!r}")

    def _receive(self) -> None:
        """Receive and handle what the transport has, within bounds. Raises ConnectionResetError if the peer closed."""
        inlet, parse, handle = self._inlet, self._parse, self._handle
        for _ in range(limits.CHANNEL_RECEIVES_MAX):
            try:
                frames = inlet.receive()
            except BlockingIOError:
                return
            except EndOfStream as error:
                raise ConnectionResetError(errno.ECONNRESET, "closed by the exporter") from error
            if frames:
                messages = [parse(frame) for frame in frames]
                self.heard = True
                for message in messages:
                    handle(message)
                    while message.next is not None:
                        message = message.next
                        handle(message)
            if inlet.is_drained:
                return
