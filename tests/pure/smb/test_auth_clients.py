"""The clients of pyspnego, impacket and Samba log in at our end."""

import base64
import re
import shutil
import subprocess
from collections.abc import Iterator

import pytest
import spnego
from impacket import ntlm
from spnego import NegotiateOptions
from spnego._spnego import NegTokenInit, NegTokenResp, unpack_token

from meshfs.errors import AuthenticationError
from support.logins import NTLM_OID, PASSWORD, new_acceptor


@pytest.mark.parametrize("protocol", ["ntlm", "negotiate"])
def test_pyspnegos_client_logs_in_with_and_without_spnego(protocol: str) -> None:
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
def test_impackets_client_logs_in(sign: bool, wrapped: bool, domain: str) -> None:
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
def test_sambas_client_logs_in(samba: type[SambaClient], protocol: str, feature: str) -> None:
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
def test_sambas_client_with_a_wrong_password_is_refused(samba: type[SambaClient]) -> None:
    client, acceptor = samba("ntlmssp-client-1", "no"), new_acceptor()
    challenge, _ = acceptor.step(client.token("YR"))
    assert challenge is not None
    with pytest.raises(AuthenticationError, match=r"the password for .* is wrong"):
        acceptor.step(client.token("TT " + base64.b64encode(challenge).decode()))
