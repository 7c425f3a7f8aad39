"""Logins by SPNEGO (RFC 4178, MS-SPNG) with NTLMv2 (MS-NLMP): each step takes a token and returns a token.

`Acceptor` is the exporter's end, and `Login` is the mount's end. NTLM is the only mechanism.

pyspnego supplies the tokens, the messages, the cryptography, and the whole initiating end. Its accepting end is not
used, for four reasons:

 - It checks a login against its own re-encoding of the client's message. MS-NLMP 3.3.2 requires the received bytes,
   and the messages of Samba and impacket end differently.
 - It waits for a mechListMIC that impacket never sends.
 - It accepts NTLMv1.
 - It reads the passwords from a file.

The accepting end below replaces it:

    state        token                                     next
    START        NegTokenInit, NTLM first, with NEGOTIATE   CHALLENGED  reply CHALLENGE
    START        NegTokenInit, NTLM later or no token       CHOSEN      reply the choice of NTLM
    START        bare NEGOTIATE                             CHALLENGED  reply bare CHALLENGE
    CHOSEN       NegTokenResp with NEGOTIATE                CHALLENGED  reply CHALLENGE
    CHALLENGED   AUTHENTICATE, in the same wrapping         DONE        or AuthenticationError
"""

import enum
import hmac
import os
import struct
from collections.abc import Callable, Mapping
from datetime import UTC
from typing import Final

import spnego
from spnego import NegotiateOptions, NTLMHash
from spnego._context import GSSMech
from spnego._ntlm_raw.crypto import hmac_md5, ntowfv1, ntowfv2, rc4init, rc4k, sealkey, signkey
from spnego._ntlm_raw.messages import (
    Authenticate,
    AvFlags,
    AvId,
    Challenge,
    FileTime,
    Negotiate,
    NegotiateFlags,
    TargetInfo,
    Version,
)
from spnego._ntlm_raw.security import sign
from spnego._spnego import NegState, NegTokenInit, NegTokenResp, pack_mech_type_list, unpack_token
from spnego.exceptions import SpnegoError

from meshfs.errors import AuthenticationError, LocalProtocolError
from meshfs.limits import AUTH_TOKEN_MAX_BYTES

SESSION_KEY_SIZE_BYTES: Final = 16
_NTLM: Final[str] = GSSMech.ntlm.value
_NTLM_SIGNATURE: Final = b"NTLMSSP\0"
_MIC_SIZE_BYTES: Final = 16
# NTLMv2_RESPONSE (2.2.2.8) consists of NTProofStr and the client challenge, whose fixed part has 28 bytes. A response
# of NTLMv1 is recognised by its length, which is only 24 bytes.
_PROOF_SIZE_BYTES: Final = 16
_CLIENT_CHALLENGE_MIN_BYTES: Final = 28
_NETBIOS_NAME_MAX: Final = 15

# The exporter agrees to these flags if the client asks for them. So the client chooses key_exch, sign and 128 bits.
_FLAGS_AGREED: Final = (
    NegotiateFlags.unicode
    | NegotiateFlags.sign
    | NegotiateFlags.seal
    | NegotiateFlags.always_sign
    | NegotiateFlags.extended_session_security
    | NegotiateFlags.key_128
    | NegotiateFlags.key_56
    | NegotiateFlags.key_exch
)
_FLAGS_ALWAYS: Final = NegotiateFlags.ntlm | NegotiateFlags.request_target | NegotiateFlags.target_type_server


class Accounts:
    """Holds the nodes that may log in: their names, whose case does not matter, and the hashes of their passwords."""

    def __init__(self, passwords: Mapping[str, str]) -> None:
        self._hashes = {name.casefold(): (name, ntowfv1(password)) for name, password in passwords.items()}
        # With this hash, an unknown user costs the same work as a wrong password. So the time does not reveal names.
        self._nobody = os.urandom(16)

    @property
    def nodes(self) -> list[str]:
        """Return the names of all nodes that may log in."""
        return [name for name, _ in self._hashes.values()]

    def find(self, user: str) -> tuple[str | None, bytes]:
        """Return the name as configured and its hash. For an unknown user, return None and a hash of no password."""
        return self._hashes.get(user.casefold(), (None, self._nobody))


def negotiate_hint() -> bytes:
    """Return the security buffer of a NEGOTIATE response: the offered mechanisms (NegTokenInit2, MS-SPNG 2.2.1)."""
    return bytes(NegTokenInit([_NTLM], hint_name=b"not_defined_in_RFC4178@please_ignore").pack())


class _State(enum.Enum):
    START = enum.auto()
    CHOSEN = enum.auto()
    CHALLENGED = enum.auto()
    DONE = enum.auto()
    FAILED = enum.auto()


class Acceptor:
    """Accepts one login at an exporter.

    The caller calls `step` until the login is done; then `user` and `session_key` are set. Every error is an
    AuthenticationError. Its text is for the log only: the peer always gets LOGON_FAILURE.
    """

    def __init__(self, find: Callable[[str], tuple[str | None, bytes]], name: str) -> None:
        """``find`` is `Accounts.find` of the accounts in force at the time of the call.

        ``find`` is called when the password is checked. So if a key is removed during a login, that login fails.
        """
        self._find = find
        self._name = name
        self._state = _State.START
        self._mech_types: list[str] | None = None  # None means bare NTLM, without SPNEGO.
        self._mic_asked = False
        self._negotiate = b""
        self._challenge = b""
        self._server_challenge = b""
        self._flags = 0
        self._user = ""
        self._session_key = b""

    @property
    def user(self) -> str:
        """Return the node that logged in, as the config spells it. Raises LocalProtocolError before that."""
        self._require_done()
        return self._user

    @property
    def session_key(self) -> bytes:
        self._require_done()
        return self._session_key

    def step(self, token: bytes) -> tuple[bytes | None, bool]:
        """Take a token, and return the reply, if there is one, and whether the login succeeded.

        Raises AuthenticationError for a malformed token and for a failed login.
        """
        state, self._state = self._state, _State.FAILED
        try:
            reply = self._step(state, token)
        except AuthenticationError:
            raise
        except Exception as error:
            # The parsers of pyspnego raise many kinds of errors (struct.error, ValueError, IndexError, KeyError,
            # RecursionError, ...). Each of them means that the peer's token is malformed.
            raise AuthenticationError(f"the login token is malformed: {error!r}") from error
        return reply, self._state is _State.DONE

    def _step(self, state: _State, token: bytes) -> bytes | None:
        if len(token) > AUTH_TOKEN_MAX_BYTES:
            raise AuthenticationError(f"the login token is too long, with {len(token)} bytes")
        parsed = unpack_token(bytes(token))
        if state is _State.START:
            return self._start(parsed)
        message, mic = self._unwrap(parsed)
        if state is _State.CHOSEN:
            return self._wrap(self._take_negotiate(message), NegState.accept_incomplete)
        if state is _State.CHALLENGED:
            self._take_authenticate(message)
            reply_mic = self._exchange_mics(mic)
            self._state = _State.DONE
            return self._wrap(None, NegState.accept_complete, reply_mic)
        raise AuthenticationError("a token arrived after the login ended")

    def _start(self, parsed: object) -> bytes | None:
        if isinstance(parsed, bytes) and parsed.startswith(_NTLM_SIGNATURE):
            return self._take_negotiate(parsed)
        if not isinstance(parsed, NegTokenInit):
            raise AuthenticationError(f"a login starts with NegTokenInit or NTLM, not {type(parsed).__name__}")
        self._mech_types = parsed.mech_types
        if _NTLM not in parsed.mech_types:
            raise AuthenticationError(f"the client offers no NTLM, but {', '.join(parsed.mech_types) or 'nothing'}")
        # The client's first token belongs to its first mechanism. If NTLM is a later mechanism, the client has to start
        # again. The mechListMIC must then prove that its list of mechanisms was not changed (RFC 4178 section 5).
        is_first = parsed.mech_types[0] == _NTLM
        self._mic_asked = not is_first
        if is_first and parsed.mech_token:
            challenge = self._take_negotiate(parsed.mech_token)
            return self._wrap(challenge, NegState.accept_incomplete, choice=_NTLM)
        self._state = _State.CHOSEN
        state = NegState.accept_incomplete if is_first else NegState.request_mic
        return self._wrap(None, state, choice=_NTLM)

    def _unwrap(self, parsed: object) -> tuple[bytes, bytes | None]:
        """Return the NTLM message and the mechListMIC of a later token."""
        if self._mech_types is None:
            if isinstance(parsed, bytes):
                return parsed, None
        elif isinstance(parsed, NegTokenResp) and parsed.neg_state != NegState.reject:
            message = parsed.response_token or b""
            # Some old clients send the token a second time in the place of the MIC.
            return message, parsed.mech_list_mic if parsed.mech_list_mic != message else None
        raise AuthenticationError(f"a login must keep the wrapping of its first token, not {type(parsed).__name__}")

    def _wrap(
        self, message: bytes | None, state: NegState, mic: bytes | None = None, choice: str | None = None
    ) -> bytes | None:
        if self._mech_types is None:
            return message
        return bytes(NegTokenResp(state, choice, message, mic).pack())

    def _take_negotiate(self, message: bytes) -> bytes:
        asked = Negotiate.unpack(message).flags
        if not asked & NegotiateFlags.unicode:
            raise AuthenticationError("the client does not speak Unicode")
        flags = (asked & _FLAGS_AGREED) | _FLAGS_ALWAYS
        self._server_challenge = os.urandom(8)
        # The Version is sent if the client asks for it (3.2.5.1.1). Samba sends the same values.
        version = Version(major=6, minor=1) if asked & NegotiateFlags.version else None
        challenge = Challenge(flags, self._server_challenge, self._name, self._target_info(), version)
        self._negotiate, self._challenge = message, challenge.pack()
        self._state = _State.CHALLENGED
        return self._challenge

    def _target_info(self) -> TargetInfo:
        info = TargetInfo()
        info[AvId.nb_domain_name] = info[AvId.nb_computer_name] = self._name[:_NETBIOS_NAME_MAX].upper()
        info[AvId.dns_domain_name] = ""
        info[AvId.dns_computer_name] = self._name
        # Because of the timestamp, clients protect their AUTHENTICATE with a MIC (3.1.5.1.2).
        info[AvId.timestamp] = FileTime.now(UTC)
        return info

    def _take_authenticate(self, message: bytes) -> None:
        """Check the AUTHENTICATE message (MS-NLMP 3.2.5.1.2). Only NTLMv2 is accepted."""
        auth = Authenticate.unpack(message)
        user, response = auth.user_name or "", auth.nt_challenge_response or b""
        if not user or auth.flags & NegotiateFlags.anonymous:
            raise AuthenticationError("the login is anonymous")
        blob = response[_PROOF_SIZE_BYTES:]
        if len(blob) < _CLIENT_CHALLENGE_MIN_BYTES or blob[:2] != b"\x01\x01":
            raise AuthenticationError(f"the login of {user!r} has no NTLMv2 response")
        name, nt_hash = self._find(user)
        key = ntowfv2(user, nt_hash, auth.domain_name)
        proof = hmac_md5(key, self._server_challenge + blob)
        if not hmac.compare_digest(proof, response[:_PROOF_SIZE_BYTES]) or name is None:
            if name is None:
                raise AuthenticationError(f"the user {user!r} is unknown")
            raise AuthenticationError(f"the password for {user!r} is wrong")
        session_key = _exported_session_key(auth, hmac_md5(key, proof))
        if _av_flags(blob) & AvFlags.mic:
            self._check_message_mic(auth, session_key)
        self._flags, self._user, self._session_key = auth.flags, name, session_key

    def _check_message_mic(self, auth: Authenticate, session_key: bytes) -> None:
        """Check the MIC, which covers the three messages as they were sent, with zeros in the place of the MIC."""
        mic = auth.mic
        if mic is None:
            raise AuthenticationError("AUTHENTICATE promises a MIC and has none")
        auth.mic = bytes(_MIC_SIZE_BYTES)
        expected = hmac_md5(session_key, self._negotiate + self._challenge + auth.pack())
        if not hmac.compare_digest(expected, mic):
            raise AuthenticationError("the MIC is wrong: a message of the login was changed on its way")

    def _exchange_mics(self, received: bytes | None) -> bytes | None:
        """Check the client's mechListMIC and return the exporter's, or None if the client sent none and needs none."""
        if received is None:
            if self._mic_asked:
                raise AuthenticationError("the mechListMIC that was asked for is missing")
            return None
        mechanisms = pack_mech_type_list(self._mech_types or [])
        if not hmac.compare_digest(self._mechanisms_mic("initiate", mechanisms), received):
            raise AuthenticationError("the mechListMIC is wrong: the list of mechanisms was changed on its way")
        return self._mechanisms_mic("accept", mechanisms)

    def _mechanisms_mic(self, usage: str, mechanisms: bytes) -> bytes:
        # The MIC is made with a fresh cipher state, and the state is dropped afterwards (MS-SPNG 3.3.5.1).
        handle = rc4init(sealkey(self._flags, self._session_key, usage))
        return bytes(sign(self._flags, handle, signkey(self._flags, self._session_key, usage), 0, mechanisms))

    def _require_done(self) -> None:
        if self._state is not _State.DONE:
            raise LocalProtocolError("the login has not succeeded")


def _exported_session_key(auth: Authenticate, key_exchange_key: bytes) -> bytes:
    """Return the session key: the client's random key, or without KEY_EXCH the key of the login itself.

    By MS-NLMP 3.1.5.1.2, a client that asks for neither SIGN nor SEAL sends no random key. But the client of Samba
    sends a random key, and uses it. So the presence of the key decides.
    """
    flags, sealed = auth.flags, auth.encrypted_random_session_key or b""
    if flags & NegotiateFlags.key_exch and len(sealed) == SESSION_KEY_SIZE_BYTES:
        return bytes(rc4k(key_exchange_key, sealed))
    if flags & NegotiateFlags.key_exch and flags & (NegotiateFlags.sign | NegotiateFlags.seal):
        raise AuthenticationError(f"the encrypted session key has a wrong size of {len(sealed)} bytes")
    return key_exchange_key


def _av_flags(blob: bytes) -> int:
    """Return MsvAvFlags of the client challenge (MS-NLMP 2.2.2.7), or 0 if the challenge does not have it.

    The bytes behind MsvAvEOL are padding.
    """
    offset = _CLIENT_CHALLENGE_MIN_BYTES
    while offset + 4 <= len(blob):
        kind, size = struct.unpack_from("<HH", blob, offset)
        offset += 4
        if kind == AvId.eol:
            break
        if kind == AvId.flags and size == 4 and offset + size <= len(blob):
            return int.from_bytes(blob[offset : offset + size], "little")
        offset += size
    return 0


class Login:
    """Performs one login at another node's exporter, as ``user`` of any ``domain``.

    The exporter proves its identity afterwards, because only a peer that knows the password can sign with
    `session_key`.
    """

    def __init__(self, user: str, password: str, domain: str) -> None:
        # With a lower level pyspnego would offer NTLMv1, which reveals the hash of the password to an impostor.
        if os.environ.get("LM_COMPAT_LEVEL", "3") not in ("3", "4", "5"):
            raise AuthenticationError("LM_COMPAT_LEVEL in the environment asks for NTLMv1: unset it")
        # pyspnego can use a hash for NTLM only. With a password it might try Kerberos.
        credential = NTLMHash(username=f"{domain}\\{user}", nt_hash=ntowfv1(password).hex())
        self._context = spnego.client(
            credential, service="cifs", protocol="negotiate", options=NegotiateOptions.use_negotiate
        )
        self._started = False

    def step(self, token: bytes | None = None) -> tuple[bytes | None, bool]:
        """Take the exporter's token, and return the next token and whether the login is done.

        In the first step the token is None or the hint of the NEGOTIATE response. Raises AuthenticationError if the
        token is malformed or refuses the login.
        """
        if token is not None and len(token) > AUTH_TOKEN_MAX_BYTES:
            raise AuthenticationError(f"the login token is too long, with {len(token)} bytes")
        if self._started and not token:
            raise AuthenticationError("the exporter's login token is empty")
        self._started = True
        try:
            reply = self._context.step(bytes(token) if token else None)
        except SpnegoError as error:
            raise AuthenticationError(f"the login failed: {error}") from error
        except Exception as error:
            raise AuthenticationError(f"the login token is malformed: {error!r}") from error
        return reply, self._context.complete

    @property
    def session_key(self) -> bytes:
        """Return the session key, which is known as soon as `step` has returned the AUTHENTICATE message.

        Raises LocalProtocolError before that step.
        """
        try:
            key = bytes(self._context.session_key)
        except SpnegoError as error:
            raise LocalProtocolError("the login has no session key yet") from error
        if len(key) != SESSION_KEY_SIZE_BYTES:
            raise LocalProtocolError("the login has no session key yet")
        return key
