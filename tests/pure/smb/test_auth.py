"""Logins between our two ends: what is accepted, what is refused, and what an attacker on the way cannot change."""

import pytest
import spnego
from impacket import ntlm
from spnego import NegotiateOptions
from spnego._ntlm_raw.messages import Authenticate, Negotiate, NegotiateFlags, Version
from spnego._spnego import NegState, NegTokenInit, NegTokenResp, unpack_token

from meshfs.errors import AuthenticationError, LocalProtocolError
from meshfs.smb import auth
from meshfs.smb.auth import Acceptor, Login, negotiate_hint
from support.logins import KERBEROS_OID, NTLM_OID, PASSWORD, client_tokens, log_in, new_acceptor


@pytest.mark.parametrize("hint", [None, negotiate_hint()])
@pytest.mark.parametrize(("user", "password", "name"), [("n1", PASSWORD, "n1"), ("NODE-2", "another", "Node-2")])
def test_our_ends_agree_on_user_and_key(user: str, password: str, name: str, hint: bytes | None) -> None:
    initiator, acceptor = Login(user, password, "demo"), new_acceptor()
    log_in(initiator, acceptor, hint)
    assert acceptor.user == name
    assert acceptor.session_key == initiator.session_key
    assert len(acceptor.session_key) == 16


def test_two_logins_never_share_a_key() -> None:
    keys = set()
    for _ in range(3):
        acceptor = new_acceptor()
        log_in(Login("n1", PASSWORD, ""), acceptor)
        keys.add(acceptor.session_key)
    assert len(keys) == 3


@pytest.mark.parametrize(
    ("user", "password", "why"),
    [
        ("n1", "no", "the password for 'n1' is wrong"),
        ("n1", "another", "the password for .* is wrong"),
        ("stranger", PASSWORD, "the user 'stranger' is unknown"),
        ("guest", "", "the user .* is unknown"),
        ("", "", "anonymous|unknown"),
    ],
)
def test_refused(user: str, password: str, why: str) -> None:
    acceptor, last = client_tokens(password, user)
    with pytest.raises(AuthenticationError, match=why):
        acceptor.step(last)
    with pytest.raises(LocalProtocolError):
        _ = acceptor.session_key
    with pytest.raises(LocalProtocolError):
        _ = acceptor.user
    # A failed login stays failed, even for the right token.
    with pytest.raises(AuthenticationError):
        acceptor.step(client_tokens()[1])


def test_anonymous_as_impacket_sends_it() -> None:
    acceptor = new_acceptor()
    first = ntlm.getNTLMSSPType1("", "", True)
    challenge, _ = acceptor.step(first.getData())
    third, _ = ntlm.getNTLMSSPType3(first, challenge, "", "", "")
    with pytest.raises(AuthenticationError, match="anonymous"):
        acceptor.step(third.getData())


def test_ntlmv1_is_refused() -> None:
    acceptor = new_acceptor()
    first = ntlm.getNTLMSSPType1("", "", True, use_ntlmv2=False)
    challenge, _ = acceptor.step(first.getData())
    third, _ = ntlm.getNTLMSSPType3(first, challenge, "n1", PASSWORD, "", use_ntlmv2=False)
    with pytest.raises(AuthenticationError, match="has no NTLMv2 response"):
        acceptor.step(third.getData())


def bare(flags: int, **fields: object) -> tuple[Acceptor, bytes]:
    acceptor = new_acceptor()
    acceptor.step(Negotiate(NegotiateFlags.unicode | NegotiateFlags.ntlm).pack())
    return acceptor, Authenticate(NegotiateFlags.unicode | flags, **fields).pack()


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"lm_challenge_response": b"x" * 24}, "has no NTLMv2"),
        ({"lm_challenge_response": b"x" * 24, "nt_challenge_response": b"y" * 24}, "has no NTLMv2"),
        ({"nt_challenge_response": b"y" * 16 + b"\x02\x01" + b"\0" * 60}, "has no NTLMv2"),
        ({"nt_challenge_response": b"y" * 16 + b"\x01\x01" + b"\0" * 60}, "the password for .* is wrong"),
    ],
)
def test_other_responses_are_refused(fields: dict[str, bytes], why: str) -> None:
    acceptor, token = bare(0, username="n1", domain_name="", version=Version(), **fields)
    with pytest.raises(AuthenticationError, match=why):
        acceptor.step(token)


def test_client_without_unicode_is_refused() -> None:
    with pytest.raises(AuthenticationError, match="Unicode"):
        new_acceptor().step(Negotiate(NegotiateFlags.oem | NegotiateFlags.ntlm).pack())


def test_a_changed_negotiate_breaks_the_mic() -> None:
    """If somebody removes a flag from the first message, the MIC over all three messages shows that."""
    acceptor, initiator = new_acceptor(), Login("n1", PASSWORD, "")
    first, _ = initiator.step()
    assert first is not None
    message = bytearray(first)
    flags_at = message.index(b"NTLMSSP\0") + 12
    message[flags_at + 3] ^= NegotiateFlags.key_56 >> 24
    challenge, _ = acceptor.step(bytes(message))
    last, _ = initiator.step(challenge)
    assert last is not None
    with pytest.raises(AuthenticationError, match="MIC"):
        acceptor.step(last)


def test_a_changed_mechanism_list_breaks_its_mic() -> None:
    acceptor, initiator = new_acceptor(), Login("n1", PASSWORD, "")
    first = unpack_token(initiator.step()[0])
    longer = NegTokenInit([NTLM_OID, KERBEROS_OID], mech_token=first.mech_token)
    challenge, _ = acceptor.step(longer.pack())
    last, _ = initiator.step(challenge)
    assert last is not None
    with pytest.raises(AuthenticationError, match="mechListMIC"):
        acceptor.step(last)


def kerberos_first(mic: bool) -> tuple[Acceptor, bytes]:
    """Return a client that prefers Kerberos, and that sends the mechListMIC afterwards or does not."""
    acceptor = new_acceptor()
    client = spnego.client("n1", PASSWORD, protocol="ntlm", options=NegotiateOptions.use_ntlm)
    _ = client._requires_mech_list_mic  # pyspnego's own way to tell NTLM that SPNEGO wants a MIC
    reply, done = acceptor.step(NegTokenInit([KERBEROS_OID, NTLM_OID], mech_token=b"\x60\x00 ticket").pack())
    assert not done
    answer = unpack_token(reply)
    assert (answer.neg_state, answer.supported_mech) == (NegState.request_mic, NTLM_OID)
    reply, _ = acceptor.step(NegTokenResp(response_token=client.step()).pack())
    message = client.step(unpack_token(reply).response_token)
    value = client.sign(spnego._spnego.pack_mech_type_list([KERBEROS_OID, NTLM_OID])) if mic else None
    return acceptor, NegTokenResp(response_token=message, mech_list_mic=value).pack()


def test_client_that_prefers_kerberos_gets_ntlm() -> None:
    acceptor, token = kerberos_first(mic=True)
    reply, done = acceptor.step(token)
    assert done
    assert len(unpack_token(reply).mech_list_mic) == 16


def test_the_mic_asked_for_has_to_come() -> None:
    acceptor, token = kerberos_first(mic=False)
    with pytest.raises(AuthenticationError, match="missing"):
        acceptor.step(token)


def test_kerberos_alone_is_refused() -> None:
    with pytest.raises(AuthenticationError, match="the client offers no NTLM"):
        new_acceptor().step(NegTokenInit([KERBEROS_OID], mech_token=b"x").pack())


def test_a_login_starts_only_once() -> None:
    acceptor, initiator = new_acceptor(), Login("n1", PASSWORD, "")
    first, _ = initiator.step()
    assert first is not None
    acceptor.step(first)
    with pytest.raises(AuthenticationError):
        acceptor.step(first)


def test_nothing_follows_a_login() -> None:
    acceptor, last = client_tokens()
    assert acceptor.step(last)[1]
    with pytest.raises(AuthenticationError, match="after the login"):
        acceptor.step(last)


def test_an_unknown_user_costs_what_a_wrong_password_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same computations run in the same order, so that the time does not reveal names."""
    work: dict[str, list[str]] = {}
    for user in ("n1", "stranger"):
        acceptor, last = client_tokens("no", user)
        calls = work.setdefault(user, [])
        for name in ("ntowfv2", "hmac_md5"):
            real = getattr(auth, name)
            monkeypatch.setattr(auth, name, lambda *a, n=name, r=real, c=calls: (c.append(n), r(*a))[1])
        with pytest.raises(AuthenticationError):
            acceptor.step(last)
        monkeypatch.undo()
    assert work["n1"] == work["stranger"] == ["ntowfv2", "hmac_md5"]


def test_refusals_reach_the_initiator() -> None:
    client = Login("n1", PASSWORD, "")
    client.step()
    with pytest.raises(AuthenticationError, match="reject"):
        client.step(NegTokenResp(NegState.reject).pack())
    with pytest.raises(LocalProtocolError):
        _ = client.session_key


@pytest.mark.parametrize("level", ["0", "1", "2"])
def test_initiator_never_sends_ntlmv1(monkeypatch: pytest.MonkeyPatch, level: str) -> None:
    monkeypatch.setenv("LM_COMPAT_LEVEL", level)
    with pytest.raises(AuthenticationError, match="LM_COMPAT_LEVEL"):
        Login("n1", "secret", "demo")
