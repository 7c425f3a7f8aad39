"""Finds the session of a request and checks the protection of the request, before a handler gets the request.

    message -> ConnectionEngine (frame, message id, credits) -> serve -> handler
                                                               |
                                                               +-> refused: with a status, or the end of the connection

This gate is the only place where the protection is checked, for every command, for CANCEL, and for the parts of
compounds. For each command, docs/security/before-a-session.md says what was done before the gate, and how each refusal
looks.
"""

import logging
from typing import Final

from meshfs.errors import ForgedMessage, RemoteProtocolError, StatusError
from meshfs.exporter.commands.table import HANDLERS, UNKNOWN, Needs
from meshfs.exporter.exchange.request import Request, command_name
from meshfs.exporter.state.peer import Peer
from meshfs.smb.constants import Command, NtStatus

logger = logging.getLogger(__name__)

# These are plain numbers, because a member of an enum costs a look-up per message.
_TREE: Final = Needs.TREE
_IF_NAMED: Final = Needs.SESSION_IF_NAMED
_CANCEL: Final = int(Command.CANCEL)
_SESSION_SETUP: Final = int(Command.SESSION_SETUP)


def serve(request: Request) -> None:
    """Hand a request to its handler if its session, protection and tree are right. Answer it with errors otherwise."""
    peer = request.peer
    try:
        if request.compound is not None:
            request.compound.inherit()
        handler, needs = HANDLERS.get(request.message.command, UNKNOWN)
        if needs and (needs is not _IF_NAMED or request.names_session):
            session = peer.sessions.get(request.session_id)
            if session is None or not session.serving:
                raise StatusError(NtStatus.USER_SESSION_DELETED, "the connection has no such session")
            request.session = session
            request.protect_by(session)
            if needs is _TREE:
                tree = session.trees.get(request.tree_id)
                if tree is None:
                    raise StatusError(NtStatus.NETWORK_NAME_DELETED, "the session has no such tree")
                request.tree = tree
        handler(request)
    except StatusError as error:
        logger.debug("%s: %s: %s", peer.remote, command_name(request.message.command), error)
        _refuse(peer, request, error.status)
    except ForgedMessage as error:
        peer.exporter.count("bad_signatures")
        _refuse_forged(peer, request, error, NtStatus.ACCESS_DENIED)
    except RemoteProtocolError as error:
        peer.exporter.count("malformed_requests")
        peer.log_warning("a malformed %s was refused: %s", command_name(request.message.command), error)
        _refuse(peer, request, NtStatus.INVALID_PARAMETER)


def _refuse(peer: Peer, request: Request, status: int) -> None:
    """Answer with ``status``, protected as the request was. Check that protection, if it was not checked before."""
    if request.message.command == _CANCEL:
        # CANCEL has no reply.
        peer.exporter.count("cancels_refused")
        return
    session = peer.sessions.get(request.session_id)
    if session is None and request.compound is not None:
        session = request.compound.session
    if request.security is None and session is not None and session.serving:
        try:
            request.protect_by(session)
        except StatusError:
            logger.debug("%s: the refused request is also not protected as its session demands", peer.remote)
        except ForgedMessage as error:
            if request.message.command != _SESSION_SETUP:
                peer.exporter.count("bad_signatures")
            _refuse_forged(peer, request, error, status)
            return
    request.fail(status)


def _refuse_forged(peer: Peer, request: Request, error: ForgedMessage, status: int) -> None:
    """End the connection without an answer (3.3.5.2.4). The initiator repeats the request over another channel.

    An answer would refuse a request of an application that somebody else has changed. No application waits for a
    login, so a forged SESSION_SETUP is answered, without a signature.
    """
    if request.message.command == _SESSION_SETUP:
        peer.log_warning("%s: the keys differ, or it was changed on its way", error)
        request.security = None
        request.fail(status)
        return
    peer.log_warning(
        "the connection is closed: %s. The message was changed on its way, or comes from somebody else", error
    )
    peer.abort()
