"""Logins: our ends against each other, and against the clients of pyspnego, impacket and Samba."""

import base64
import random
import re
import shutil
import subprocess
from collections.abc import Iterator

import pytest
import spnego
from impacket import ntlm
from spnego import NegotiateOptions
from spnego._ntlm_raw.messages import Authenticate, Challenge, Negotiate, NegotiateFlags, Version
from spnego._spnego import NegState, NegTokenInit, NegTokenResp, unpack_token

from meshfs.errors import AuthenticationError, LocalProtocolError
from meshfs.limits import AUTH_TOKEN_MAX_BYTES
from meshfs.smb import auth
from meshfs.smb.auth import Acceptor, Accounts, Initiator, negotiate_hint

PASSWORD = "tGzr3y0T-_uYc8Q0yS3bqk1zjP7wV5aGm2fXnL9oHdE"
ACCOUNTS = Accounts({"n1": PASSWORD, "Node-2": "another"})
NTLM_OID = "1.3.6.1.4.1.311.2.2.10"
KERBEROS_OID = "1.2.840.113554.1.2.2"


def new_acceptor() -> Acceptor:
    return Acceptor(ACCOUNTS.find, "exporter-of-a-long-name")


def log_in(initiator: Initiator, acceptor: Acceptor, hint: bytes | None = None) -> None:
    token, _ = initiator.step(hint)
    for _ in range(4):
        assert token is not None
        reply, accepted = acceptor.step(token)
        token, done = initiator.step(reply)
        if accepted:
            assert done
            assert token is None
            return
    pytest.fail("the login does not end")


def client_tokens(password: str = PASSWORD, user: str = "n1") -> tuple[Acceptor, bytes]:
    """An acceptor that has sent its challenge, and the AUTHENTICATE token it waits for."""
    acceptor, initiator = new_acceptor(), Initiator(user, password, "demo")
    first, _ = initiator.step()
    assert first is not None
    challenge, _ = acceptor.step(first)
    last, _ = initiator.step(challenge)
    assert last is not None
    return acceptor, last


@pytest.mark.parametrize("hint", [None, negotiate_hint()])
@pytest.mark.parametrize(("user", "password", "name"), [("n1", PASSWORD, "n1"), ("NODE-2", "another", "Node-2")])
def test_our_ends_agree(user: str, password: str, name: str, hint: bytes | None) -> None:
    initiator, acceptor = Initiator(user, password, "demo"), new_acceptor()
    log_in(initiator, acceptor, hint)
    assert acceptor.user == name
    assert acceptor.session_key == initiator.session_key
    assert len(acceptor.session_key) == 16


def test_two_logins_never_share_a_key() -> None:
    keys = set()
    for _ in range(3):
        acceptor = new_acceptor()
        log_in(Initiator("n1", PASSWORD, ""), acceptor)
        keys.add(acceptor.session_key)
    assert len(keys) == 3


@pytest.mark.parametrize("protocol", ["ntlm", "negotiate"])
def test_pyspnego_client_with_and_without_spnego(protocol: str) -> None:
    options = NegotiateOptions.use_negotiate if protocol == "negotiate" else NegotiateOptions.use_ntlm
    client = spnego.client("WORKGROUP\\n1", PASSWORD, protocol=protocol, options=options)
    acceptor = new_acceptor()
    challenge, done = acceptor.step(client.step())
    assert not done
    reply, done = acceptor.step(client.step(challenge))
    if reply:
        client.step(reply)
    assert done
    assert client.complete
    assert client.session_key == acceptor.session_key


@pytest.mark.parametrize("sign", [False, True])
@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("domain", ["", "WORKGROUP", "fileserver.example.org"])
def test_impacket_client(sign: bool, wrapped: bool, domain: str) -> None:
    acceptor = new_acceptor()
    first = ntlm.getNTLMSSPType1("", "", sign, use_ntlmv2=True)
    token = NegTokenInit([NTLM_OID], mech_token=first.getData()).pack() if wrapped else first.getData()
    reply, _ = acceptor.step(token)
    challenge = unpack_token(reply).response_token if wrapped else reply
    third, key = ntlm.getNTLMSSPType3(first, challenge, "n1", PASSWORD, domain, use_ntlmv2=True)
    token = NegTokenResp(response_token=third.getData()).pack() if wrapped else third.getData()
    reply, done = acceptor.step(token)
    assert done
    assert acceptor.user == "n1"
    assert acceptor.session_key == key
    # impacket sends no mechListMIC and gets none.
    assert reply is None if not wrapped else unpack_token(reply).mech_list_mic is None


class SambaClient:
    """Samba's own NTLM client, as ntlm_auth gives it to other programs (ntlm_auth(1))."""

    def __init__(self, protocol: str, password: str, *options: str) -> None:
        command = ["ntlm_auth", f"--helper-protocol={protocol}", "--username=n1", "--domain=FOO"]
        self._process = subprocess.Popen(
            [*command, f"--password={password}", *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def ask(self, line: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()

    def token(self, line: str) -> bytes:
        reply = self.ask(line)
        assert re.match(r"(YR|KK|AF) ", reply), reply
        return base64.b64decode(reply.split()[1])

    def close(self) -> None:
        self._process.communicate(timeout=10)


@pytest.fixture
def samba() -> Iterator[type[SambaClient]]:
    if shutil.which("ntlm_auth") is None:
        pytest.skip("ntlm_auth of Samba is not installed")
    clients: list[SambaClient] = []

    class Tracked(SambaClient):
        def __init__(self, *arguments: str) -> None:
            super().__init__(*arguments)
            clients.append(self)

    yield Tracked
    for client in clients:
        client.close()


@pytest.mark.peers
@pytest.mark.parametrize("feature", ["NTLMSSP_FEATURE_SESSION_KEY", "NTLMSSP_FEATURE_SIGN", "NTLMSSP_FEATURE_SEAL"])
@pytest.mark.parametrize("protocol", ["ntlmssp-client-1", "gss-spnego-client"])
def test_samba_client(samba: type[SambaClient], protocol: str, feature: str) -> None:
    client, acceptor = samba(protocol, PASSWORD), new_acceptor()
    client.ask(f"SF {feature}")
    challenge, _ = acceptor.step(client.token("YR"))
    assert challenge is not None
    reply, done = acceptor.step(client.token("TT " + base64.b64encode(challenge).decode()))
    assert done
    if reply is not None:
        assert client.ask("TT " + base64.b64encode(reply).decode()).startswith("AF")
    assert client.ask("GK") == "GK " + base64.b64encode(acceptor.session_key).decode()


@pytest.mark.peers
def test_samba_client_with_wrong_password(samba: type[SambaClient]) -> None:
    client, acceptor = samba("ntlmssp-client-1", "no"), new_acceptor()
    challenge, _ = acceptor.step(client.token("YR"))
    assert challenge is not None
    with pytest.raises(AuthenticationError, match="wrong password"):
        acceptor.step(client.token("TT " + base64.b64encode(challenge).decode()))


@pytest.mark.parametrize(
    ("user", "password", "why"),
    [
        ("n1", "no", "wrong password for 'n1'"),
        ("n1", "another", "wrong password"),
        ("stranger", PASSWORD, "unknown user 'stranger'"),
        ("guest", "", "unknown user"),
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
    with pytest.raises(AuthenticationError, match="without an NTLMv2 response"):
        acceptor.step(third.getData())


def bare(flags: int, **fields: object) -> tuple[Acceptor, bytes]:
    acceptor = new_acceptor()
    acceptor.step(Negotiate(NegotiateFlags.unicode | NegotiateFlags.ntlm).pack())
    return acceptor, Authenticate(NegotiateFlags.unicode | flags, **fields).pack()


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"lm_challenge_response": b"x" * 24}, "without an NTLMv2"),
        ({"lm_challenge_response": b"x" * 24, "nt_challenge_response": b"y" * 24}, "without an NTLMv2"),
        ({"nt_challenge_response": b"y" * 16 + b"\x02\x01" + b"\0" * 60}, "without an NTLMv2"),
        ({"nt_challenge_response": b"y" * 16 + b"\x01\x01" + b"\0" * 60}, "wrong password"),
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
    """Who strips a flag from the first message is found out by the MIC over all three."""
    acceptor, initiator = new_acceptor(), Initiator("n1", PASSWORD, "")
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
    acceptor, initiator = new_acceptor(), Initiator("n1", PASSWORD, "")
    first = unpack_token(initiator.step()[0])
    longer = NegTokenInit([NTLM_OID, KERBEROS_OID], mech_token=first.mech_token)
    challenge, _ = acceptor.step(longer.pack())
    last, _ = initiator.step(challenge)
    assert last is not None
    with pytest.raises(AuthenticationError, match="mechListMIC"):
        acceptor.step(last)


def kerberos_first(mic: bool) -> tuple[Acceptor, bytes]:
    """A client that hopes for Kerberos, and sends the mechListMIC afterwards or not."""
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
    with pytest.raises(AuthenticationError, match="no common mechanism"):
        new_acceptor().step(NegTokenInit([KERBEROS_OID], mech_token=b"x").pack())


def test_a_login_starts_only_once() -> None:
    acceptor, initiator = new_acceptor(), Initiator("n1", PASSWORD, "")
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


@pytest.mark.parametrize("token", [b"", b"\0", b"NTLMSSP\0", b"`" * 40, b"x" * (AUTH_TOKEN_MAX_BYTES + 1)])
def test_noise_is_refused(token: bytes) -> None:
    with pytest.raises(AuthenticationError):
        new_acceptor().step(token)
    client = Initiator("n1", PASSWORD, "")
    client.step()
    with pytest.raises(AuthenticationError):
        client.step(token)


def test_deep_nesting_is_refused() -> None:
    token = b"NTLMSSP\0"
    for _ in range(2000):
        body = b"\x06\x06\x2b\x06\x01\x05\x05\x02" + token
        token = b"\x60\x83" + len(body).to_bytes(3, "big") + body
        if len(token) > AUTH_TOKEN_MAX_BYTES - 20:
            break
    with pytest.raises(AuthenticationError):
        new_acceptor().step(token)


def mutations(token: bytes) -> Iterator[bytes]:
    for size in range(len(token)):
        yield token[:size]
    for bit in range(len(token) * 8):
        changed = bytearray(token)
        changed[bit // 8] ^= 1 << bit % 8
        yield bytes(changed)
    source = random.Random(20240601)
    for _ in range(2000):
        changed = bytearray(token)
        for _ in range(source.randrange(1, 8)):
            changed[source.randrange(len(changed))] = source.randrange(256)
        yield bytes(changed)


def test_mutated_first_tokens_raise_nothing_else() -> None:
    first, _ = Initiator("n1", PASSWORD, "").step()
    assert first is not None
    for token in (first, Negotiate(NegotiateFlags.unicode, version=Version()).pack()):
        for changed in mutations(token):
            try:
                _, done = new_acceptor().step(changed)
            except AuthenticationError:
                continue
            assert not done


def test_mutated_last_tokens_never_log_another_in() -> None:
    """Few bits are not under the MIC; none of them changes who logs in, or with what key."""
    acceptor, last = client_tokens()
    state = dict(vars(acceptor))
    initiator_key: bytes | None = None
    for changed in [last, *mutations(last)]:
        attempt = new_acceptor()
        vars(attempt).update(state)
        try:
            _, done = attempt.step(changed)
        except AuthenticationError:
            continue
        assert done
        assert attempt.user == "n1"
        initiator_key = initiator_key or attempt.session_key
        assert attempt.session_key == initiator_key


def test_mutated_challenges_raise_nothing_else() -> None:
    plain = Challenge(NegotiateFlags.unicode | NegotiateFlags.ntlm, b"8 bytes.", version=Version()).pack()
    for changed in mutations(plain):
        client = Initiator("n1", PASSWORD, "")
        client.step()
        try:
            client.step(NegTokenResp(NegState.accept_incomplete, NTLM_OID, changed).pack())
        except AuthenticationError:
            continue


def test_fuzzed_logins_raise_nothing_else(fuzz_cases: int) -> None:
    """Either token of a login, changed, cut and spliced at random."""
    source = random.Random(71)
    acceptor, last = client_tokens()
    state = dict(vars(acceptor))
    first, _ = Initiator("n1", PASSWORD, "").step()
    assert first is not None
    for case in range(fuzz_cases):
        is_last = case % 2 == 1
        token = bytearray(last if is_last else first)
        for _ in range(source.randrange(1, 6)):
            start = source.randrange(len(token) + 1)
            end = min(len(token), start + source.choice((0, 1, 2, 4, 40)))
            token[start:end] = source.choice((source.randbytes(end - start), b"\0", b"\xff" * 4, b"", token[:start]))
        attempt = new_acceptor()
        if is_last:
            vars(attempt).update(state)
        try:
            _, done = attempt.step(bytes(token))
        except AuthenticationError:
            continue
        assert not done or is_last


def test_an_unknown_user_costs_what_a_wrong_password_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same computations in the same order, so that time tells no names."""
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
    client = Initiator("n1", PASSWORD, "")
    client.step()
    with pytest.raises(AuthenticationError, match="reject"):
        client.step(NegTokenResp(NegState.reject).pack())
    with pytest.raises(LocalProtocolError):
        _ = client.session_key


@pytest.mark.parametrize("level", ["0", "1", "2"])
def test_initiator_never_sends_ntlmv1(monkeypatch: pytest.MonkeyPatch, level: str) -> None:
    monkeypatch.setenv("LM_COMPAT_LEVEL", level)
    with pytest.raises(AuthenticationError, match="LM_COMPAT_LEVEL"):
        Initiator("n1", "secret", "demo")
