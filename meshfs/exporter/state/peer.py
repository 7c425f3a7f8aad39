"""Keeps the state of one connection at the exporter, and the frames that wait to be sent. Does no I/O.

`meshfs.exporter.serving.engine` handles the frames that come in. The frames to be sent wait in ``out``, the oldest
first, until ``flush`` has the transport send them.
"""

import logging
from collections.abc import Callable
from typing import ParamSpec, Protocol

from meshfs import bugs, limits
from meshfs.buffers import Buffer
from meshfs.exporter.rules.admission import AdmissionStage
from meshfs.exporter.rules.node_usage import NodeUsage
from meshfs.exporter.state.bind import Bind
from meshfs.exporter.state.exporter import Exporter
from meshfs.exporter.state.session import Session
from meshfs.smb.connection import Connection, Role
from meshfs.smb.constants import NtStatus
from meshfs.smb.credits import CreditWindow
from meshfs.smb.states import CONNECTION, ConnectionState, SmbEvent, next_state
from meshfs.transport.base import MessageMemory, OutQueue

logger = logging.getLogger(__name__)

Parameters = ParamSpec("Parameters")

#: The most replies in one call. With more of them, one end would wait while the other handles a whole batch.
_OUT_MAX = 2
_OUT_MAX_BYTES = 64 * limits.KIB


class Cancellable(Protocol):
    """Stands for a request that a CANCEL can end. An example is `meshfs.exporter.kinds.disk.io.IoRequest`."""

    @property
    def session(self) -> Session:
        """Return the session of the request. No other session may cancel the request."""

    def cancel(self) -> None:
        """Answer the request with CANCELLED, unless the request cannot be stopped any more."""


class Pending(Cancellable, Protocol):
    """Stands for a request without an answer yet, as `meshfs.exporter.exchange.waiting.AsyncCommand` is."""

    @property
    def message_id(self) -> int:
        """Return the message id of the request."""

    def end(self, status: int) -> None:
        """Give up waiting and answer with ``status``."""


class HoldsMemory(Protocol):
    """Stands for an object, such as a compound, with memory that is charged to the node of the connection."""

    def let_go(self) -> None:
        """Charge the node no longer, because the connection is lost."""


class Peer:
    """Represents the other end of one connection.

    flush       sends ``out``. The outlet of the connection sets this callable
    on_stage    is called when the connection comes closer to a login, and when its last session has ended
    """

    def __init__(self, exporter: Exporter, remote: str, received: MessageMemory, out: OutQueue) -> None:
        self.exporter = exporter
        self.remote = remote
        #: The memory of the received messages, which the inlet of the transport fills.
        self.received = received
        self.connection = Connection(Role.EXPORTER, exporter.pool, received)
        #: The node that logged in last, or before a login the strangers. The connection's memory is charged there.
        self.usage = exporter.usage.strangers
        #: Tells whether nobody is logged in on the connection.
        self.is_strangers = True
        self.received.account = self.usage.memory
        self.window = CreditWindow()
        self.state = ConnectionState.NEW
        self.sessions: dict[int, Session] = {}
        #: The binds under way, by the id of their session.
        self.binds: dict[int, Bind] = {}
        #: The asynchronous requests, by AsyncId.
        self.waiting: dict[int, Pending] = {}
        #: The requests that a CANCEL can still end, by message id.
        self.cancellable: dict[int, Cancellable] = {}
        self.last_async_id = 0
        #: The compounds whose memory is charged.
        self.compounds: set[HoldsMemory] = set()
        #: The replies that were not sent.
        self.out = out
        self.dirty = False
        #: Tells whether the transport is closed, so that nothing can be received or sent any more.
        self.closed = False
        #: Tells whether the connection has to be closed as soon as ``out`` was sent.
        self.closing = False
        self.flush: Callable[[], None] = _nothing
        self.on_stage: Callable[[AdmissionStage], None] = _ignored
        self._mark_dirty = exporter.batches.mark_dirty
        exporter.peers.add(self)

    # --- sending -----------------------------------------------------------------------

    def send(self, frame: bytearray | memoryview, buffer: Buffer | None = None) -> None:
        """Queue a frame. Its ``buffer`` is released when the frame was sent, or when it cannot be sent any more."""
        if self.closed:
            if buffer is not None:
                buffer.release()
            return
        if self.out.add(frame, None, buffer) >= _OUT_MAX or len(frame) > _OUT_MAX_BYTES:
            self.flush()
        if not self.dirty:
            self.dirty = True
            self._mark_dirty(self)

    # --- life --------------------------------------------------------------------------

    def happened(self, event: SmbEvent) -> None:
        """Go on to the state after ``event``. Raise RemoteProtocolError if the state does not allow the event."""
        self.state = next_state(CONNECTION, self.state, event, Role.EXPORTER)

    def logged_in(self, usage: NodeUsage) -> None:
        """Allow larger frames and more credits, because a session of that node has become valid."""
        if self.is_strangers:
            self.is_strangers = False
            usage.connections += 1
            self.usage = usage
            self.received.account = usage.memory
        self.received.frame_max_bytes = limits.FRAME_MAX_BYTES
        self.window.limit = limits.CREDITS_MAX
        self.window.limit_max = limits.CREDITS_GRANTED_MAX
        self.on_stage(AdmissionStage.LOGGED_IN)

    @property
    def logins_under_way(self) -> int:
        """Return how many logins and binds have begun on the connection and are not granted yet."""
        return len(self.binds) + sum(not session.user for session in self.sessions.values())

    @property
    def has_all_sessions(self) -> bool:
        """Return whether the connection has as many sessions as it may have."""
        return len(self.binds) + len(self.sessions) >= limits.SESSIONS_PER_CONNECTION_MAX

    def end_bind(self, session_id: int) -> None:
        """Forget the bind to that session, if one is under way, because it was granted or refused."""
        if self.binds.pop(session_id, None) is not None and (session := self.exporter.sessions.get(session_id)):
            session.binding.discard(self)

    def forget(self, session_id: int) -> None:
        """Forget the session, which is not bound to the connection any more. End a bind to it that is under way."""
        self.binds.pop(session_id, None)
        self.sessions.pop(session_id, None)
        self.connection.security.pop(session_id, None)
        self.login_over()

    def login_over(self) -> None:
        """Check whether a node is still logged in, after a login or a bind failed or a session ended.

        If none is, memory is still charged to the last node. Large frames may be on their way, and must not take the
        memory of the strangers.
        """
        if not any(other.user for other in self.sessions.values()):
            if not self.is_strangers:
                self.is_strangers = True
                self.usage.connections -= 1
            self.on_stage(AdmissionStage.NEGOTIATED)

    def abort(self) -> None:
        """Close the connection when the answers that are queued were sent. No more requests are handled."""
        if self.closed:
            # Another connection may have its file descriptor by now.
            return
        self.closing = True
        if not self.dirty:
            self.dirty = True
            self._mark_dirty(self)

    def lost(self) -> None:
        """End everything that depends on this connection alone, because its transport is closed.

        I/O at a disk ends by itself. If one step fails by an internal error, the other steps are still done. Otherwise
        the node and the exporter would never get back what these steps give back.
        """
        if self.closed:
            return
        self.closed = True
        self.happened(SmbEvent.CLOSE)
        self.exporter.peers.discard(self)
        for waiting in list(self.waiting.values()):
            _do(waiting.end, NtStatus.CANCELLED)
        for session_id in list(self.binds):
            _do(self.end_bind, session_id)
        for session in list(self.sessions.values()):
            _do(self.exporter.sessions.unbind, session, self)
        for compound in list(self.compounds):
            _do(compound.let_go)
        self.out.drop()
        self.received.close()

    def log_warning(self, text: str, *arguments: object) -> None:
        """Log something that the peer did wrong. Lines beyond the limit are counted and not logged."""
        self.exporter.log.warning(logger, "%s: " + text, self.remote, *arguments)

    def log_info(self, text: str, *arguments: object) -> None:
        """Log something that the peer did and may do. Lines beyond the limit are counted and not logged."""
        self.exporter.log.info(logger, "%s: " + text, self.remote, *arguments)

    def protection_text(self, session: Session) -> str:
        """Return how the session is protected, for logs: ``SMB 3.1.1, signing AES-GMAC``."""
        negotiated = self.connection.negotiated
        dialect = negotiated.dialect.text if negotiated.dialect is not None else "?"
        how = f"encrypted {negotiated.cipher.text}"
        if not session.encrypt:
            how = f"signing {negotiated.signing_algorithm.text}"
        return f"SMB {dialect}, {how}"


def _do(step: Callable[Parameters, object], *args: Parameters.args, **kwargs: Parameters.kwargs) -> None:
    """Do one step of the connection's end, and report an internal error instead of raising it."""
    try:
        step(*args, **kwargs)
    except Exception as error:
        bugs.report(logger, "ending a lost connection", error)


def _nothing() -> None:
    """Do nothing, in place of ``flush``, if there is no transport. The frames stay in ``out``."""


def _ignored(_: AdmissionStage) -> None:
    """Do nothing, in place of ``on_stage``, if there is no listener."""
