"""Both ends of a login, and the tokens of a client."""

import pytest

from meshfs.smb.auth import Acceptor, Accounts, Login

PASSWORD = "tGzr3y0T-_uYc8Q0yS3bqk1zjP7wV5aGm2fXnL9oHdE"


ACCOUNTS = Accounts({"n1": PASSWORD, "Node-2": "another"})


NTLM_OID = "1.3.6.1.4.1.311.2.2.10"


KERBEROS_OID = "1.2.840.113554.1.2.2"


def new_acceptor() -> Acceptor:
    return Acceptor(ACCOUNTS.find, "exporter-of-a-long-name")


def log_in(initiator: Login, acceptor: Acceptor, hint: bytes | None = None) -> None:
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
    acceptor, initiator = new_acceptor(), Login(user, password, "demo")
    first, _ = initiator.step()
    assert first is not None
    challenge, _ = acceptor.step(first)
    last, _ = initiator.step(challenge)
    assert last is not None
    return acceptor, last
