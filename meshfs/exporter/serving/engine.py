"""Turns the frames that come in on one connection into messages, and hands each message to its handler. No I/O.

    handle        Each frame that the transport received is handled, or held for later. A request that is handled was
                  answered, or waits at a disk or for an event.
    go_on         The held frames are handled, as far as they may be now.

If either of them raises RemoteProtocolError, the connection is over. Replies wait in `Peer.out`.
"""

import math
from collections.abc import Callable
from typing import Final

from meshfs import limits
from meshfs.buffers import Frame
from meshfs.errors import RemoteProtocolError
from meshfs.exporter.commands.gate import serve
from meshfs.exporter.commands.negotiate import negotiate
from meshfs.exporter.exchange.compound import Compound
from meshfs.exporter.exchange.request import Request
from meshfs.exporter.state.peer import Peer
from meshfs.smb.connection import Message
from meshfs.smb.constants import Command, Flags
from meshfs.smb.states import ConnectionState

# These are plain numbers and names, because a member of an enum costs a look-up per message.
_CANCEL: Final = int(Command.CANCEL)
_NEGOTIATE: Final = int(Command.NEGOTIATE)
_READY: Final = ConnectionState.READY
_ASYNC: Final = int(Flags.ASYNC_COMMAND)
_CREDITS_MAX: Final = limits.CREDITS_MAX


class ConnectionEngine:
    """Handles the frames of one connection.

    held             the frames that wait until others are answered (``is_full``), or for the next turn. While frames
                     are held, the link receives nothing. The link calls ``go_on`` when the frames may go on
    until_s          the end of the turn by the processor's clock. When it has passed, the frames after the message
                     under way are held
    on_class_change  is called when the class of a request differs from that of the request before. Its argument says
                     whether the new class is system, and it returns whether the request has to be held
    """

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._connection = peer.connection
        self._window = peer.window
        self._clock = peer.exporter.processor.clock
        self._system_trees = peer.exporter.sessions.system_trees
        self.held: list[Frame] = []
        #: The message of the first held frame, if the frame was parsed already.
        self._head: Message | None = None
        self.until_s = math.inf
        #: Tells whether the last request was of the class system.
        self.system = False
        self.on_class_change: Callable[[bool], bool] = _goes_on
        self._cancels = 0

    @property
    def is_full(self) -> bool:
        """Return whether more credits are in progress than allowed."""
        return self._window.in_flight > _CREDITS_MAX

    @property
    def has_room(self) -> bool:
        """Return whether enough requests were answered to go on with the held frames."""
        return self._window.in_flight <= _CREDITS_MAX // 2

    def go_on(self) -> None:
        """Handle the held frames, as far as the turn goes. Raise RemoteProtocolError if one breaks the protocol."""
        held, self.held = self.held, []
        self.handle(held)

    def handle(self, frames: list[Frame]) -> None:
        """Handle frames one by one. A frame is parsed and its signature is checked when the frame before was handled.

        Raises RemoteProtocolError if a frame breaks the protocol.
        """
        peer, window, parse = self._peer, self._window, self._connection.parse
        clock, until_s, system_trees = self._clock, self.until_s, self._system_trees
        head, self._head = self._head, None
        for index, frame in enumerate(frames):
            if peer.closing:
                return
            if window.in_flight > _CREDITS_MAX or (index and clock() >= until_s):
                self._head, self.held = head, frames[index:]
                return
            if head is None:
                message = parse(frame)
                if system_trees and self._changes_class(message):
                    self._head, self.held = message, frames[index:]
                    return
            else:
                message, head = head, None
            if message.command == _CANCEL:
                self._cancel(message)
                continue
            self._take_ids(message)
            if message.command == _NEGOTIATE or peer.state is not _READY:
                negotiate(peer, message)
            elif message.next is None:
                serve(Request(peer, message))
            else:
                Compound(peer, message, serve).run()

    def _changes_class(self, message: Message) -> bool:
        """Note the class of a request. Return True if the class changed and the request has to wait for a turn of it.

        The tree shows the class before anything is verified. A request without a tree counts to the class before.
        """
        tree_id = message.tail >> 32
        if not tree_id or message.flags & _ASYNC:
            return False
        system = (message.session_id << 32 | tree_id) in self._system_trees
        if system is self.system:
            return False
        self.system = system
        return self.on_class_change(system)

    def _take_ids(self, message: Message) -> None:
        """Use up the message ids of a message and all its parts. Raise RemoteProtocolError if one was not granted."""
        part: Message | None = message
        while part is not None:
            if part.command == _CANCEL:
                raise RemoteProtocolError("CANCEL must not be part of a compound")
            if not self._window.take(part.message_id, part.credit_charge):
                raise RemoteProtocolError(
                    f"message id {part.message_id} with charge {part.credit_charge} was not granted"
                )
            part = part.next

    def _cancel(self, message: Message) -> None:
        """Handle a CANCEL, which takes no message id. Raise RemoteProtocolError if there are more CANCELs than ids."""
        self._cancels += 1
        if message.next is not None:
            raise RemoteProtocolError("CANCEL must not be part of a compound")
        if self._peer.state is not _READY:
            raise RemoteProtocolError("CANCEL came before NEGOTIATE")
        if self._cancels > self._window.used:
            raise RemoteProtocolError(
                f"{self._cancels} CANCELs came, and only {self._window.used} message ids were used"
            )
        serve(Request(self._peer, message))


def _goes_on(_: bool) -> bool:
    """Return False, in place of ``on_class_change``, if no other connection waits for a turn."""
    return False
