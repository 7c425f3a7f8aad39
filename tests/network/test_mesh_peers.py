"""Programs that know nothing of meshfs use a real exporter: smbclient, smbprotocol, impacket, nmap, tshark."""

import os
import re
import subprocess
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from impacket.smb3structs import SMB2_DIALECT_30, SMB2_DIALECT_311
from impacket.smbconnection import SessionError, SMBConnection
from smbprotocol.connection import Connection
from smbprotocol.open import (
    CreateDisposition,
    CreateOptions,
    FileAttributes,
    FilePipePrinterAccessMask,
    ImpersonationLevel,
    Open,
    ShareAccess,
)
from smbprotocol.session import Session
from smbprotocol.tree import TreeConnect

from meshfs.limits import KIB, MIB
from meshlab.cluster.cluster import LocalCluster
from support.commands import run, until

pytestmark = pytest.mark.peers

DISK_BYTES = 16 * MIB
CMAC = "--option=client smb3 signing algorithms=AES-128-CMAC"
CAPTURES_MAX = 10
# dumpcap now and then loses packets of a busy loopback, and such a capture proves nothing.
LOST = "tcp.analysis.lost_segment || tcp.analysis.ack_lost_segment"
GMAC = "--option=client smb3 signing algorithms=AES-128-GMAC"


@pytest.fixture(scope="module")
def exporter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """Start the exporter of n1 with one disk, without a mount. The programs log in as n2."""
    folder = tmp_path_factory.mktemp("peers")
    with LocalCluster(folder) as cluster:
        cluster.add_node("n1", [cluster.image("disk0", DISK_BYTES)])
        cluster.add_node("n2")
        cluster.write()
        cluster.keygen()
        cluster.start_exporter("n1")
        yield cluster
    assert "Traceback" not in (cluster.logs / "n1-meshfsd.log").read_text()


@pytest.fixture(scope="module")
def password(exporter: LocalCluster) -> str:
    return exporter.meshctl("password", str(exporter.config), "--node", "n2", "--to", "n1").stdout.strip()


def smbclient(exporter: LocalCluster, user: str, command: str, *options: str, share: str = "disks") -> str:
    """Return what smbclient printed. Fail if it failed, or if it printed a status that it ignores."""
    output = smbclient_any(exporter, user, command, *options, share=share, status=0)
    assert "NT_STATUS" not in output, output
    return output


def smbclient_any(
    exporter: LocalCluster, user: str, command: str, *options: str, share: str = "disks", status: int | None = None
) -> str:
    node = exporter.nodes["n1"]
    line = ["smbclient", f"//{node.address}/{share}", "-p", str(node.port), "-U", user, "-c", command]
    return run(*line, *options, status=status, timeout_s=60)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(("--client-protection=sign", GMAC), id="gmac"),
        pytest.param(("--client-protection=sign", CMAC), id="cmac"),
        pytest.param(("--client-protection=encrypt",), id="encrypted"),
        pytest.param(("--client-protection=sign", "--option=client min protocol=NT1"), id="begins-in-smb-1"),
        pytest.param(("--client-protection=sign", "--option=client max protocol=SMB3_00"), id="smb-3.0"),
        pytest.param(("--client-protection=encrypt", "--option=client max protocol=SMB3_02"), id="smb-3.0.2-encrypted"),
        *(
            pytest.param(
                ("--client-protection=encrypt", f"--option=client smb3 encryption algorithms={cipher}"), id=cipher
            )
            for cipher in ("AES-128-GCM", "AES-128-CCM", "AES-256-GCM", "AES-256-CCM")
        ),
    ],
)
@pytest.mark.parametrize("share", ["disks", "disks-system"])
def test_smbclient_lists_puts_and_gets(
    exporter: LocalCluster, password: str, tmp_path: Path, options: tuple[str, ...], share: str
) -> None:
    source, back = tmp_path / "source", tmp_path / "back"
    source.write_bytes(os.urandom(DISK_BYTES))
    user = f"n2%{password}"
    listing = smbclient(exporter, user, "ls", *options, share=share)
    assert "disk0" in listing
    assert str(DISK_BYTES) in listing
    smbclient(exporter, user, f"put {source} disk0; get disk0 {back}", *options, share=share)
    run("cmp", source, back)
    run("cmp", source, exporter.nodes["n1"].disks[0].path)


@pytest.mark.parametrize(
    ("user", "options", "why"),
    [
        pytest.param("n2%wrong", (), "login denied: the password for 'n2' is wrong", id="wrong-password"),
        pytest.param("n9%wrong", (), "login denied: the user 'n9' is unknown", id="unknown-node"),
        pytest.param("%", (), "login denied: the login is anonymous", id="anonymous"),
        pytest.param("guest%", (), "login denied: the user 'guest' is unknown", id="guest"),
        pytest.param(
            "n2%{password}",
            ("--option=client max protocol=NT1", "--option=client min protocol=NT1"),
            "SMB 1 is not supported",
            id="smb1",
        ),
        pytest.param(
            "n2%{password}",
            ("--option=client max protocol=SMB2_02",),
            "none of the dialects 0x0202 is supported",
            id="smb-2.0.2",
        ),
        pytest.param(
            "n2%{password}", ("--option=client max protocol=SMB2_10",), "none of the dialects 0x02", id="smb-2.1"
        ),
        pytest.param("n2%{password}", ("--option=client ntlmv2 auth=no",), "has no NTLMv2 response", id="ntlmv1"),
    ],
)
def test_nobody_else_gets_in(
    exporter: LocalCluster, password: str, user: str, options: tuple[str, ...], why: str
) -> None:
    log = exporter.logs / "n1-meshfsd.log"
    before = log.stat().st_size
    output = smbclient_any(exporter, user.replace("{password}", password), "ls", *options, status=1)
    assert "disk0" not in output
    # The exporter refused the login, and its log gives the reason.
    until(lambda: why in log.read_text()[before:], f"{why!r} is logged")
    # The exporter is as well as before.
    assert "disk0" in smbclient(exporter, f"n2%{password}", "ls")


def test_the_share_of_pipes_exists(exporter: LocalCluster, password: str) -> None:
    smbclient(exporter, f"n2%{password}", "exit", share="IPC$")


def test_an_unknown_share_has_its_status(exporter: LocalCluster, password: str) -> None:
    assert "NT_STATUS_BAD_NETWORK_NAME" in smbclient_any(exporter, f"n2%{password}", "ls", share="other")


@pytest.mark.parametrize("encrypt", [False, True], ids=["signed", "encrypted"])
def test_smbprotocols_own_client_reads_and_writes(exporter: LocalCluster, password: str, encrypt: bool) -> None:
    node = exporter.nodes["n1"]
    connection = Connection(uuid.uuid4(), node.address, node.port, require_signing=True)
    connection.connect(timeout=20)
    try:
        session = Session(connection, "n2", password, require_encryption=encrypt, auth_protocol="ntlm")
        session.connect()
        tree = TreeConnect(session, rf"\\{node.address}\disks")
        tree.connect()
        file = Open(tree, "disk0")
        file.create(
            ImpersonationLevel.Impersonation,
            FilePipePrinterAccessMask.GENERIC_READ | FilePipePrinterAccessMask.GENERIC_WRITE,
            FileAttributes.FILE_ATTRIBUTE_NORMAL,
            ShareAccess.FILE_SHARE_READ | ShareAccess.FILE_SHARE_WRITE,
            CreateDisposition.FILE_OPEN,
            CreateOptions.FILE_NON_DIRECTORY_FILE,
        )
        data = os.urandom(256 * 1024)
        assert file.write(data, 3 * MIB + 17) == len(data)
        file.flush()
        assert file.read(3 * MIB + 17, len(data)) == data
        assert file.end_of_file == DISK_BYTES
        file.close()
        tree.disconnect()
        session.disconnect()
    finally:
        connection.disconnect()


def impacket(exporter: LocalCluster, dialect: int | None) -> SMBConnection:
    """Without a dialect, impacket begins in SMB 1 and offers SMB 2 there."""
    node = exporter.nodes["n1"]
    return SMBConnection(node.address, node.address, sess_port=node.port, timeout=20, preferredDialect=dialect)


@pytest.mark.parametrize("dialect", [None, SMB2_DIALECT_30, SMB2_DIALECT_311])
def test_impacket_reads_and_writes(exporter: LocalCluster, password: str, dialect: int | None) -> None:
    connection = impacket(exporter, dialect)
    assert connection.getDialect() == (dialect or SMB2_DIALECT_311)
    connection.login("n2", password)
    assert [entry.get_longname() for entry in connection.listPath("disks", "*")].count("disk0") == 1
    tree = connection.connectTree("disks")
    file = connection.openFile(tree, "disk0")
    data = os.urandom(64 * 1024)
    connection.writeFile(tree, file, data, 5 * MIB)
    assert connection.readFile(tree, file, 5 * MIB, len(data)) == data
    connection.closeFile(tree, file)
    connection.disconnectTree(tree)
    connection.logoff()
    connection.close()


def test_impacket_with_a_wrong_password_is_refused(exporter: LocalCluster) -> None:
    connection = impacket(exporter, SMB2_DIALECT_311)
    with pytest.raises(SessionError, match="STATUS_LOGON_FAILURE"):
        connection.login("n2", "wrong")
    connection.close()


@pytest.fixture(scope="module")
def on_445(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LocalCluster, Sequence[str]]]:
    """Start an exporter at SMB's own port, in a network namespace of its own. Yield the prefix of commands there.

    nmap runs its SMB scripts on no other port, and on other ports tshark misreads messages above 128 KiB.
    """
    namespace = f"meshfs-{os.getpid()}"
    inside = ("nsenter", f"--net=/run/netns/{namespace}")
    run("ip", "netns", "add", namespace)
    try:
        # Packets of 64 KiB, which lo has otherwise, fill dumpcap's ring, and it loses more of them.
        run("ip", "-n", namespace, "link", "set", "lo", "mtu", "9000", "gso_max_size", "9000", "up")
        with LocalCluster(tmp_path_factory.mktemp("on445"), prefix=inside) as cluster:
            cluster.add_node("n1", [cluster.image("disk0", 256 * KIB)], port=445)
            cluster.add_node("n2", port=445)
            cluster.write()
            cluster.keygen()
            running = cluster.launch_exporter("n1")
            until(lambda: running.process.poll() is None and cluster.control("n1"), "the exporter serves")
            yield cluster, inside
        assert "Traceback" not in (cluster.logs / "n1-meshfsd.log").read_text()
    finally:
        run("ip", "netns", "del", namespace)


def test_nmap_agrees_with_what_is_offered(on_445: tuple[LocalCluster, Sequence[str]]) -> None:
    _, inside = on_445
    scripts = "smb-protocols,smb2-security-mode,smb2-capabilities"
    output = run(*inside, "nmap", "-n", "-Pn", "-p", "445", "--script", scripts, "127.0.0.2")
    dialects = "".join(output.partition("smb-protocols:")[2].partition("|_    311\n")[:2])
    assert re.findall(r"^\|_? +(\S+)$", dialects, re.MULTILINE) == ["300", "302", "311"], output
    assert "Message signing enabled and required" in output


@pytest.mark.parametrize("protection", ["sign", "encrypt"])
def test_tshark_finds_nothing_wrong(
    on_445: tuple[LocalCluster, Sequence[str]], tmp_path: Path, protection: str
) -> None:
    """The signatures are CMAC, because tshark cannot check GMAC."""
    cluster, inside = on_445
    password = cluster.meshctl("password", str(cluster.config), "--node", "n2", "--to", "n1").stdout.strip()
    capture = tmp_path / "capture.pcapng"
    source = tmp_path / "source"
    source.write_bytes(os.urandom(256 * KIB))
    commands = f"ls; put {source} disk0; get disk0 {tmp_path / 'back'}; allinfo disk0; ls absent; get absent"
    client = [*inside, "smbclient", "//127.0.0.2/disks", CMAC, f"--client-protection={protection}"]
    for _ in range(CAPTURES_MAX):
        with capturing(inside, capture):
            run(*client, "-U", f"n2%{password}", "-c", commands, status=None)
            run(*client, "-U", "n2%wrong", "-c", "ls", status=1)
        run("cmp", source, tmp_path / "back")
        if tshark("tshark", "-n", "-r", str(capture), "-Y", LOST) == "":
            break
    else:
        pytest.fail("no capture was whole")
    decode = ["tshark", "-n", "-o", "smb2.verify_signatures:TRUE", "-o", f"ntlmssp.nt_password:{password}"]
    wrong = "smb2 && (_ws.malformed || smb2.bad_response || smb2.invalid_length || smb2.bad_signature)"
    assert tshark(*decode, "-r", str(capture), "-Y", wrong) == ""
    fields = ["-T", "fields", "-e", "smb2.cmd", "-Y", "smb2.flags.response == 1"]
    seen = set(tshark(*decode, "-r", str(capture), *fields).replace(",", " ").split())
    # tshark shows these commands, also of sealed messages, which it decrypts: NEGOTIATE, SESSION_SETUP, TREE_CONNECT,
    # CREATE, CLOSE, READ, WRITE, QUERY_DIRECTORY.
    assert {"0", "1", "3", "5", "6", "8", "9", "14"} <= seen


def test_tshark_finds_nothing_wrong_with_our_own_initiator(
    on_445: tuple[LocalCluster, Sequence[str]], tmp_path: Path
) -> None:
    """The test does not check whether the signatures, which are GMAC, are right."""
    cluster, inside = on_445
    for attempt in range(CAPTURES_MAX):
        capture = tmp_path / f"capture-{attempt}.pcapng"
        with capturing(inside, capture):
            disk = cluster.mount("n2") / "disk/by-node/n1/disk0"
            for size in ("4k", "256k"):
                run(
                    "dd", "if=/dev/urandom", f"of={disk}", f"bs={size}", "count=1", "oflag=direct", "conv=notrunc,fsync"
                )
                run("dd", f"if={disk}", "of=/dev/null", f"bs={size}", "count=1", "iflag=direct")
            cluster.unmount("n2")
        if tshark("tshark", "-n", "-r", str(capture), "-Y", LOST) == "":
            break
    else:
        pytest.fail("no capture was whole")
    wrong = "smb2 && (_ws.malformed || smb2.bad_response || smb2.invalid_length)"
    assert tshark("tshark", "-n", "-r", str(capture), "-Y", wrong) == ""
    sent = ["-T", "fields", "-e", "smb2.cmd", "-Y", "smb2.flags.response == 0"]
    seen = set(tshark("tshark", "-n", "-r", str(capture), *sent).replace(",", " ").split())
    # NEGOTIATE, SESSION_SETUP, TREE_CONNECT, CREATE, FLUSH, READ, WRITE.
    assert {"0", "1", "3", "5", "7", "8", "9"} <= seen


@contextmanager
def capturing(inside: Sequence[str], to: Path) -> Iterator[None]:
    command = [*inside, "dumpcap", "-q", "-B", "64", "-i", "lo", "-f", "tcp port 445", "-w", str(to)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            until(lambda: to.stat().st_size > 0, "dumpcap captures")
            yield
            settle(to)
        finally:
            process.terminate()


def settle(path: Path) -> None:
    """Wait until the file stops growing, because the kernel hands packets over with a delay."""
    size, since = -1, time.monotonic()
    while time.monotonic() - since < 1.0:
        if path.stat().st_size != size:
            size, since = path.stat().st_size, time.monotonic()
        time.sleep(0.05)


def tshark(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout.strip()
