"""Every command without a session, or without the key of its session: the answer, and that nothing was done.

docs/security/before-a-session.md has the same in a table.
"""

from collections.abc import Callable, Iterable

import pytest

from meshfs.exporter.commands.table import HANDLERS
from meshfs.model import Security
from meshfs.smb.connection import Protection
from meshfs.smb.constants import (
    MESSAGE_ID_UNSOLICITED,
    SESSION_ID_RELATED,
    Command,
    Flags,
    NtStatus,
    SessionSetupFlags,
)
from meshfs.smb.messages import (
    SessionSetupRequest,
)
from meshlab.smb.raw_initiator import RawInitiator
from meshlab.smb.raw_messages import Reply
from support.channels import second_session
from support.one_of_everything import ECHO, SIGNED, World, damaged, ends, message, sealed

UNKNOWN = 0x1D
RELATED = int(Flags.RELATED_OPERATIONS)
COMMANDS = [*Command, UNKNOWN]


def name_of(command: object) -> str:
    return command.name if isinstance(command, Command) else str(command)


#: name -> (policy, what arrives)
Make = Callable[[World, int], bytearray]

_SIGN, _ENCRYPT = Security.SIGN, Security.ENCRYPT


def _mine(world: World) -> int:
    return world.mine.session_id


def _foreign(world: World) -> int:
    return world.foreign.session_id


NO_SESSION: dict[str, tuple[Security, Make]] = {
    "no session": (_SIGN, lambda w, c: message(w, c, session_id=77)),
    "no session, signed": (_SIGN, lambda w, c: damaged(message(w, c, session_id=77, flags=SIGNED))),
    "foreign session": (_SIGN, lambda w, c: message(w, c, session_id=_foreign(w))),
    "foreign session, signed": (_SIGN, lambda w, c: message(w, c, session_id=_foreign(w), signed_by=w.foreign)),
    "no session, plain under encrypt": (_ENCRYPT, lambda w, c: message(w, c, session_id=77)),
}

UNPROTECTED: dict[str, tuple[Security, Make]] = {
    "unsigned": (_SIGN, lambda w, c: message(w, c, session_id=_mine(w))),
    "unsigned under encrypt": (_ENCRYPT, lambda w, c: message(w, c, session_id=_mine(w))),
}

ENDS: dict[str, tuple[Security, Make]] = {
    "wrong signature": (_SIGN, lambda w, c: damaged(message(w, c, session_id=_mine(w), signed_by=w.mine))),
    "changed header": (_SIGN, lambda w, c: damaged(message(w, c, session_id=_mine(w), signed_by=w.mine), 14)),
    "another's key": (_SIGN, lambda w, c: message(w, c, session_id=_mine(w), signed_by=w.foreign)),
    "wrong signature, signing optional": (
        Security.NONE,
        lambda w, c: damaged(message(w, c, session_id=_mine(w), signed_by=w.mine)),
    ),
    "wrong signature under encrypt": (
        _ENCRYPT,
        lambda w, c: damaged(message(w, c, session_id=_mine(w), signed_by=w.mine)),
    ),
    "sealed for a foreign session": (
        _ENCRYPT,
        lambda w, c: sealed(w, message(w, c, session_id=_foreign(w)), w.foreign),
    ),
    "sealed, inside a foreign session": (
        _ENCRYPT,
        lambda w, c: sealed(w, message(w, c, session_id=_foreign(w)), w.mine),
    ),
    "sealed and changed": (_ENCRYPT, lambda w, c: damaged(sealed(w, message(w, c, session_id=_mine(w)), w.mine), 70)),
}


def refused(command: int, security: Security, make: Callable[[World, int], bytearray]) -> tuple[World, Reply | None]:
    """Send the message into a new world, and check that it changes nothing. Return the world and the answer, if any."""
    world = World(security)
    before = world.state()
    closed = ends(world, make(world, command))
    assert world.state() == before
    assert not world.mine.answered(world.queued), "it was cancelled"
    assert closed == (command == Command.NEGOTIATE)
    if closed:
        return world, None
    if command == Command.CANCEL:
        assert (len(world.mine.replies), world.exporter.counters["cancels_refused"]) == (0, 1)
        return world, None
    (reply,) = world.mine.replies
    return world, reply


@pytest.mark.parametrize("case", list(NO_SESSION))
@pytest.mark.parametrize("command", COMMANDS, ids=name_of)
def test_without_a_session_nothing_is_done(command: int, case: str) -> None:
    world, reply = refused(command, *NO_SESSION[case])
    if reply is not None:
        # The answer is the same whether another connection has such a session or not. No key is used for it.
        assert reply.status == NtStatus.USER_SESSION_DELETED
        assert reply.view[48:64] == bytes(16)
    assert world.foreign.call(Command.ECHO, ECHO).status == 0


@pytest.mark.parametrize("case", list(UNPROTECTED))
@pytest.mark.parametrize("command", COMMANDS, ids=name_of)
def test_with_less_protection_than_the_session_demands_nothing_is_done(command: int, case: str) -> None:
    _, reply = refused(command, *UNPROTECTED[case])
    if reply is not None:
        assert reply.status == NtStatus.ACCESS_DENIED
        # An initiator would believe a signed error, although somebody took the signature off the request.
        assert (reply.protection, reply.flags & SIGNED) == (Protection.NONE, 0)


@pytest.mark.parametrize("case", list(ENDS))
@pytest.mark.parametrize("command", COMMANDS, ids=name_of)
def test_a_forged_message_ends_its_connection_without_an_answer(command: int, case: str) -> None:
    security, make = ENDS[case]
    world = World(security)
    before = world.state()
    closed = ends(world, make(world, command))
    assert world.state() == before
    if command == Command.SESSION_SETUP and "sealed" not in case:
        # No application waits for a login, and other clients expect an answer.
        (reply,) = world.mine.replies
        assert (closed, reply.status, reply.view[48:64]) == (False, NtStatus.ACCESS_DENIED, bytes(16))
        # Samba's client demands the flag of a signature, and does not check the signature.
        assert reply.flags & SIGNED
        return
    assert (closed, list(world.mine.replies)) == (True, [])
    assert world.foreign.call(Command.ECHO, ECHO).status == 0, "only the connection on which it came ends"


@pytest.mark.parametrize("command", [command for command in COMMANDS if command != Command.NEGOTIATE], ids=name_of)
def test_a_forgery_is_counted_as_one(command: int, caplog: pytest.LogCaptureFixture) -> None:
    """A forged encrypted message is counted where the connection receives (test_listener.py)."""
    world = World()
    assert ends(world, ENDS["wrong signature"][1](world, command)) or command == Command.SESSION_SETUP
    assert world.exporter.counters["bad_signatures"] == 1
    assert "with a wrong signature" in caplog.text


@pytest.mark.parametrize("command", COMMANDS, ids=name_of)
def test_signed_but_not_sealed_is_refused_where_encryption_is_a_must(command: int) -> None:
    """The peer has the key, so the answer is signed. A SESSION_SETUP alone needs no encryption (3.3.5.2.9)."""
    world = World(Security.ENCRYPT)
    before = world.state()
    closed = ends(world, message(world, command, session_id=_mine(world), signed_by=world.mine))
    if command == Command.NEGOTIATE:
        assert closed
    elif command == Command.CANCEL:
        assert (closed, len(world.mine.replies)) == (False, 0)
    elif command == Command.SESSION_SETUP:
        # The exporter begins a login with the token of the body, which is wrong. That ends the session.
        assert (closed, world.mine.replies[-1].status) == (False, NtStatus.LOGON_FAILURE)
        return
    else:
        (reply,) = world.mine.replies
        assert (closed, reply.status, reply.protection) == (False, NtStatus.ACCESS_DENIED, Protection.SIGNED)
    assert world.state() == before


# --- compounds -------------------------------------------------------------------------


def chained(world: World, parts: Iterable[tuple[int, int, int, RawInitiator | None]]) -> bytes:
    """Return one frame of several requests. Each part is (command, session id, flags, client that signs)."""
    made = []
    for command, session_id, flags, signer in parts:
        made.append((message(world, command, session_id=session_id, flags=flags), signer))
    for index, (data, signer) in enumerate(made):
        if index < len(made) - 1:
            data.extend(bytes(-len(data) % 8))
            data[20:24] = len(data).to_bytes(4, "little")
        if signer is not None:
            assert signer.security is not None
            data[16] |= SIGNED
            world.mine.connection.sign(data, signer.security)
    return b"".join(data for data, _ in made)


#: The session id of a related part behind a part that is signed well, and the client that signs it.
RELATED_PARTS: dict[str, tuple[Callable[[World], int] | None, str | None]] = {
    "unsigned, named": (_mine, None),
    "unsigned": (lambda _: SESSION_ID_RELATED, None),
    "another's key": (lambda _: SESSION_ID_RELATED, "foreign"),
    "another session of the connection": (None, "second"),
}

_OF_FILES = [command for command in COMMANDS if command not in (Command.NEGOTIATE, Command.CANCEL)]


@pytest.mark.parametrize("case", list(RELATED_PARTS))
@pytest.mark.parametrize("command", _OF_FILES, ids=name_of)
def test_a_related_part_inherits_a_session_and_no_protection(command: int, case: str) -> None:
    world = World()
    second = second_session(world.mine)
    named, signer = RELATED_PARTS[case]
    key = {"foreign": world.foreign, "second": second}.get(signer or "")
    before = world.state()
    parts = [
        (Command.ECHO, _mine(world), 0, world.mine),
        (command, named(world) if named else second.session_id, RELATED, key),
    ]
    closed = ends(world, bytearray(chained(world, parts)))
    if signer is not None and command != Command.SESSION_SETUP:
        assert (closed, list(world.mine.replies)) == (True, [])
    else:
        assert (closed, [reply.status for reply in world.mine.replies]) == (False, [0, NtStatus.ACCESS_DENIED])
    assert world.state() == before


@pytest.mark.parametrize("first", [True, False])
def test_a_cancel_in_a_compound_ends_the_connection(first: bool) -> None:
    world = World()
    before = world.state()
    parts = [(Command.CANCEL, _mine(world), 0, world.mine), (Command.ECHO, _mine(world), 0, world.mine)]
    assert ends(world, bytearray(chained(world, parts if first else reversed(parts))))
    assert world.state() == before


# --- before the login, and before NEGOTIATE --------------------------------------------


@pytest.mark.parametrize("command", COMMANDS, ids=name_of)
def test_a_stranger_may_negotiate_log_in_and_ask_for_an_echo(command: int) -> None:
    world = World()
    stranger = world.mine = RawInitiator(world.exporter)
    stranger.negotiate()
    before = world.state()
    world.queued = MESSAGE_ID_UNSOLICITED
    closed = ends(world, message(world, command, session_id=0))
    statuses = [reply.status for reply in stranger.replies]
    if command == Command.NEGOTIATE:
        assert (closed, statuses) == (True, [])
    elif command == Command.CANCEL:
        assert (closed, statuses) == (False, [])
    elif command == Command.ECHO:
        assert statuses == [0]
    elif command == Command.SESSION_SETUP:
        assert statuses == [NtStatus.LOGON_FAILURE]
        return
    elif command == UNKNOWN:
        assert statuses == [NtStatus.INVALID_PARAMETER]
    else:
        assert statuses == [NtStatus.USER_SESSION_DELETED]
    assert world.state() == before


@pytest.mark.parametrize("command", [command for command in COMMANDS if command != Command.NEGOTIATE], ids=name_of)
def test_before_negotiate_everything_else_ends_the_connection(command: int) -> None:
    world = World()
    world.mine = RawInitiator(world.exporter)
    before = world.state()
    assert ends(world, message(world, command, session_id=0))
    assert not world.mine.replies
    assert world.state() == before


def test_a_signed_echo_names_a_session_though_its_id_is_0() -> None:
    world = World()
    assert not ends(world, message(world, Command.ECHO, session_id=0, signed_by=world.mine))
    assert [reply.status for reply in world.mine.replies] == [NtStatus.USER_SESSION_DELETED]


def test_no_command_was_forgotten() -> None:
    assert {*HANDLERS, Command.NEGOTIATE} == set(Command)


# --- no answer says which sessions exist ------------------------------------------------


def test_a_session_id_says_nothing_of_the_others() -> None:
    world = World()
    ids = [RawInitiator(world.exporter).log_in().session_id for _ in range(20)]
    distances = [abs(one - other) for one in ids for other in ids if one is not other]
    assert min(distances) > 1 << 32, "a session id near another one is found by counting"


@pytest.mark.parametrize("flags", [0, int(SessionSetupFlags.BINDING)])
def test_a_guessed_session_id_is_refused_like_any_other(flags: int) -> None:
    world = World()
    stranger = RawInitiator(world.exporter)
    stranger.negotiate()
    body = SessionSetupRequest(flags, 1, 0, b"NTLMSSP\0").pack()

    def ask(session_id: int) -> Reply:
        return stranger.call(Command.SESSION_SETUP, body, session_id=session_id, sign=False)

    assert ask(77).status == NtStatus.USER_SESSION_DELETED
    if not flags:
        assert ask(_mine(world)).status == NtStatus.USER_SESSION_DELETED
