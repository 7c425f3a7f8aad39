"""An attacker on the way replays recorded messages, injects messages and cancels requests, over real sockets."""

from contextlib import ExitStack, suppress

import pytest

from meshfs import limits
from meshfs.smb.auth import Login
from meshfs.smb.connection import Protection
from meshfs.smb.constants import AccessMask, Command, Flags, NtStatus, SessionSetupFlags
from meshfs.smb.messages import ChangeNotifyRequest, EchoRequest, FileId, SessionSetupRequest
from meshfs.smb.wire import pack_header
from meshlab.smb.raw_binding import bind, protection_by
from meshlab.smb.raw_messages import Reply, framed, read_body, write_body
from meshlab.smb.socket_initiator import SocketInitiator
from support.attack_stage import ATTACKED, ATTACKER, Stage

READ = int(AccessMask.READ_DATA)
REPLAYS = 12
OLD, NEW = b"o" * 4096, b"n" * 4096
GONE = (EOFError, OSError)


def client(stage: Stage) -> SocketInitiator:
    node = stage.cluster.nodes["n1"]
    return SocketInitiator((node.address, node.port), 10.0, source="127.0.0.4")


def logged_in(stage: Stage, stack: ExitStack, *, to_be_bound: bool = False) -> SocketInitiator:
    made = stack.enter_context(client(stage))
    made.negotiate()
    if to_be_bound:
        made.skip_ids(limits.BIND_MESSAGE_IDS)
    reply = made.set_up(ATTACKER, stage.password(ATTACKER))
    assert reply.status == 0
    made.sealed = stage.cluster.security == "encrypt"
    made.connect("disks")
    made.call(Command.ECHO, EchoRequest().pack(), credits=256)
    return made


def test_a_replayed_bind_never_has_two_messages_signed_under_one_nonce(stage: Stage) -> None:
    """The attacker records a bind's NEGOTIATE and first SESSION_SETUP, and sends them again from elsewhere.

    With AES-GMAC the message id is the nonce. Two different messages with the same id and good signatures of the
    session's key reveal the key of the hash.
    """
    with ExitStack() as stack:
        session = logged_in(stage, stack, to_be_bound=True)
        recorder = Recorder(stack.enter_context(client(stage)))
        recorder.client.negotiate()
        login = Login(ATTACKER, stage.password(ATTACKER), "")
        recorder.client.security = session.session_security
        body = SessionSetupRequest(int(SessionSetupFlags.BINDING), 1, 0, login.step()[0] or b"").pack()
        message_id = recorder.client.send(Command.SESSION_SETUP, body, session_id=session.session_id, tree_id=0)
        answers = [answer_to(recorder.client, message_id)]
        answers += [replayed(stage, recorder.frames, message_id) for _ in range(REPLAYS)]
        assert session.session_security is not None
        signed = {reply.view for reply in answers if reply and signed_by_session(reply, session)}
        # The bind itself is no repeat, and its answer has the session's signature.
        assert len(signed) == 1, f"{len(signed)} different messages signed under message id {message_id}"
        assert session.call(Command.ECHO, EchoRequest().pack()).status == 0, "the session itself goes on"


class Recorder:
    """Keeps the frames that a client sends."""

    def __init__(self, client: SocketInitiator) -> None:
        self.client = client
        self.frames: list[bytes] = []
        deliver = client.deliver

        def recorded(*frames: bytes | bytearray | memoryview) -> None:
            self.frames += [bytes(frame) for frame in frames]
            deliver(*frames)

        client.deliver = recorded  # type: ignore[method-assign]


def answer_to(client: SocketInitiator, message_id: int) -> Reply | None:
    try:
        return client.take(message_id)
    except GONE:
        return None


def replayed(stage: Stage, frames: list[bytes], message_id: int) -> Reply | None:
    with client(stage) as stranger:
        try:
            for frame in frames:
                stranger.socket.sendall(frame)
        except OSError:
            return None
        return answer_to(stranger, message_id)


def signed_by_session(reply: Reply, session: SocketInitiator) -> bool:
    assert session.session_security is not None
    return protection_by(reply, session.session_security) == Protection.SIGNED and bool(reply.flags & Flags.SIGNED)


@pytest.mark.parametrize("named", ["async", "message"])
@pytest.mark.parametrize("whose", ["no-session", "foreign-session", "own-session"])
def test_an_unsigned_cancel_is_not_obeyed(secured: Stage, whose: str, named: str) -> None:
    """The exporter ignores a CANCEL of a session that the connection lacks, and an unsigned one of its own session."""
    with ExitStack() as stack:
        session, other = logged_in(secured, stack), logged_in(secured, stack)
        root = session.open("", READ)
        watch = session.send(Command.CHANGE_NOTIFY, ChangeNotifyRequest(FileId(root, root), 4096, 0xFFF).pack())
        pending = session.take(watch)
        assert pending.status == NtStatus.PENDING
        claimed = {"no-session": 0, "foreign-session": other.session_id, "own-session": session.session_id}[whose]
        by_async = named == "async"
        cancel = (
            pack_header(
                Command.CANCEL,
                message_id=watch,
                session_id=claimed,
                flags=int(Flags.ASYNC_COMMAND) if by_async else 0,
                async_id=pending.async_id if by_async else None,
            )
            + EchoRequest().pack()
        )
        session.socket.sendall(framed(cancel))
        # The exporter may end the connection. It must not answer the request as cancelled.
        with suppress(*GONE):
            session.call(Command.ECHO, EchoRequest().pack())
        assert not [reply for reply in session.replies if reply.message_id == watch], "the request was cancelled"
        assert other.call(Command.ECHO, EchoRequest().pack()).status == 0


def second_channel(stage: Stage, session: SocketInitiator, stack: ExitStack) -> SocketInitiator:
    channel = stack.enter_context(client(stage))
    channel.negotiate()
    reply = bind(channel, session, ATTACKER, stage.password(ATTACKER))
    assert reply.status == 0, f"bind: 0x{reply.status:08x}"
    return channel


def old_and_new(session: SocketInitiator, opened: int) -> tuple[int, bytes]:
    """Write OLD, then NEW at the same place. Return the message id and the frame of the write of OLD."""
    message_id, frame = session.pack(Command.WRITE, write_body(opened, 0, OLD))
    recorded = bytes(frame)
    session.deliver(recorded)
    assert session.take(message_id).status == 0
    assert session.call(Command.WRITE, write_body(opened, 0, NEW)).status == 0
    return message_id, recorded


def test_a_sealed_write_of_one_channel_is_not_carried_out_on_another(encrypted: Stage) -> None:
    """Nobody may make an old write land over a newer one by sending it again on any channel."""
    with ExitStack() as stack:
        session = logged_in(encrypted, stack, to_be_bound=True)
        channel = second_channel(encrypted, session, stack)
        opened = session.open(ATTACKED)
        # The recorded message's id must be one that the other channel may use next.
        channel.skip_ids(session.next_id)
        assert channel.next_id == session.next_id
        message_id, recorded = old_and_new(session, opened)
        channel.socket.sendall(recorded)
        unanswered_or_refused(channel, message_id)
        assert session.call(Command.READ, read_body(opened, 0, 4096)).data == NEW


def test_a_recorded_write_is_not_carried_out_again_on_its_own_channel(secured: Stage) -> None:
    with ExitStack() as stack:
        session, reader = logged_in(secured, stack), logged_in(secured, stack)
        opened = session.open(ATTACKED)
        message_id, recorded = old_and_new(session, opened)
        session.socket.sendall(recorded)
        unanswered_or_refused(session, message_id)
        assert reader.call(Command.READ, read_body(reader.open(ATTACKED), 0, 4096)).data == NEW


def unanswered_or_refused(client: SocketInitiator, message_id: int) -> None:
    """Wait until the exporter has finished with what was sent: it closed the connection, or answered."""
    with suppress(*GONE):
        assert client.take(message_id).status != 0, "it was carried out"
