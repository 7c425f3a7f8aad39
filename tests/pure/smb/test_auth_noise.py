"""Tokens that are noise, cut or changed are refused, and log nobody in."""

import random
from collections.abc import Iterator

import pytest
from spnego._ntlm_raw.messages import Challenge, Negotiate, NegotiateFlags, Version
from spnego._spnego import NegState, NegTokenResp

from meshfs.errors import AuthenticationError
from meshfs.limits import AUTH_TOKEN_MAX_BYTES
from meshfs.smb.auth import Login
from support.logins import NTLM_OID, PASSWORD, client_tokens, new_acceptor


@pytest.mark.parametrize("token", [b"", b"\0", b"NTLMSSP\0", b"`" * 40, b"x" * (AUTH_TOKEN_MAX_BYTES + 1)])
def test_noise_is_refused(token: bytes) -> None:
    with pytest.raises(AuthenticationError):
        new_acceptor().step(token)
    client = Login("n1", PASSWORD, "")
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
    first, _ = Login("n1", PASSWORD, "").step()
    assert first is not None
    for token in (first, Negotiate(NegotiateFlags.unicode, version=Version()).pack()):
        for changed in mutations(token):
            try:
                _, done = new_acceptor().step(changed)
            except AuthenticationError:
                continue
            assert not done


def test_mutated_last_tokens_never_log_another_in() -> None:
    """A few bits are not under the MIC. None of them changes who logs in, or with what key."""
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
        client = Login("n1", PASSWORD, "")
        client.step()
        try:
            client.step(NegTokenResp(NegState.accept_incomplete, NTLM_OID, changed).pack())
        except AuthenticationError:
            continue


def test_fuzzed_logins_raise_nothing_else(fuzz_cases: int) -> None:
    """Either token of a login is changed, cut and spliced at random."""
    source = random.Random(71)
    acceptor, last = client_tokens()
    state = dict(vars(acceptor))
    first, _ = Login("n1", PASSWORD, "").step()
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
