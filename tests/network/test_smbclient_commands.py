"""Each command of smbclient on a share of disks, and smbcacls, works or is refused with the right status."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshfs.limits import KIB, MIB
from meshlab.cluster.cluster import LocalCluster
from support.commands import run

pytestmark = pytest.mark.peers

LONG = "nvme-wwn-0x5000c500a1b2c3d4"
CONTENT = bytes(range(256)) * (4 * KIB)
# smbcacls takes no port. The exporter therefore has SMB's own, at a loopback address that nobody else uses.
PORT = 445
ADDRESS = f"127.45.{os.getpid() >> 8 & 255}.{os.getpid() & 255}"


class Peer:
    """Samba's clients at the exporter of n1, logged in as n2."""

    def __init__(self, cluster: LocalCluster) -> None:
        password = cluster.meshctl("password", str(cluster.config), "--node", "n2", "--to", "n1").stdout.strip()
        self.login = ["-U", f"n2%{password}"]
        self.cluster = cluster

    def smbclient(self, command: str, *, share: str = "disks", status: int | None = None) -> str:
        options = ["-p", str(PORT), *self.login, "-c", command]
        return run("smbclient", f"//{ADDRESS}/{share}", *options, status=status, timeout_s=60)

    def smbcacls(self, name: str, *options: str, status: int | None = 0) -> str:
        return run("smbcacls", f"//{ADDRESS}/disks", name, *self.login, "--numeric", *options, status=status)


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    folder = tmp_path_factory.mktemp("commands")
    with LocalCluster(folder) as cluster:
        disks = [
            cluster.image("disk0", MIB),
            cluster.image("locked", MIB, access="ro"),
            cluster.image(LONG, MIB),
        ]
        cluster.add_node("n1", disks, port=PORT, addresses=[ADDRESS])
        cluster.add_node("n2")
        cluster.write()
        cluster.keygen()
        for disk in disks:
            disk.path.write_bytes(CONTENT)
        cluster.start_exporter("n1")
        yield Peer(cluster)
    assert "Traceback" not in (cluster.logs / "n1-meshfsd.log").read_text()


@pytest.mark.parametrize(("name", "short"), [("disk0", "DISK0"), ("locked", "LOCKED"), (LONG, "NV284A~1")])
@pytest.mark.parametrize("share", ["disks", "disks-system"])
def test_allinfo_shows_size_times_and_short_name(peer: Peer, name: str, short: str, share: str) -> None:
    text = peer.smbclient(f"allinfo {name}", share=share, status=0)
    assert "NT_STATUS" not in text
    assert f"altname: {short}\n" in text
    assert "write_time:" in text
    assert re.findall(r"^attributes: (\w*) ", text, re.MULTILINE) == ["R" if name == "locked" else ""]
    assert f"stream: [::$DATA], {MIB} bytes" in text


def test_a_disk_is_found_by_its_short_name(peer: Peer, tmp_path: Path) -> None:
    peer.smbclient(f"get NV284A~1 {tmp_path}/got", status=0)
    assert (tmp_path / "got").read_bytes() == CONTENT
    assert "NT_STATUS_OBJECT_NAME_NOT_FOUND" in peer.smbclient(f"get NV284B~1 {tmp_path}/none")


@pytest.mark.parametrize("share", ["disks", "disks-system"])
def test_volume_is_named_after_the_node(peer: Peer, share: str) -> None:
    assert re.search(r"Volume: \|n1\| serial number 0x[0-9a-f]+\n", peer.smbclient("volume", share=share, status=0))


@pytest.mark.parametrize("share", ["disks", "disks-system"])
@pytest.mark.parametrize("options", [["-F"], ["-L"], ["-u", "n2"]])
def test_smbcquotas_is_told_that_there_are_no_quotas(peer: Peer, share: str, options: list[str]) -> None:
    text = run("smbcquotas", f"//{ADDRESS}/{share}", *peer.login, *options, status=None, timeout_s=60)
    assert "Quotas are not supported by the server." in text


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("ls", LONG),
        ("dir disk*", f"disk0 .* N .*{MIB}"),
        ("ls LOCKED", "locked .* R "),
        ("recurse; ls", LONG),
        ("du", f"Total number of bytes: {3 * MIB}"),
        (f"altname {LONG}", "NV284A~1"),
        ("tcon disks-system; ls", "disk0"),
        ("cd .; pwd", r"Current directory is .*disks"),
        # The exporter keeps none of these. Copying tools set them without need.
        ("setmode disk0 +r", "^$"),
        ("utimes disk0 -1 -1 -1 -1", "^$"),
        ("showacls; ls disk0", r"S-1-5-11|Authenticated Users"),
        ("listconnect", "share=disks"),
    ],
)
def test_what_works(peer: Peer, command: str, expected: str) -> None:
    text = peer.smbclient(command, status=0)
    assert "NT_STATUS" not in text
    assert re.search(expected, text), text


@pytest.mark.parametrize(
    ("command", "status"),
    [
        ("get none /dev/null", "OBJECT_NAME_NOT_FOUND"),
        ("ls none", "NO_SUCH_FILE"),
        ("put /etc/passwd none", "ACCESS_DENIED"),
        ("put /etc/passwd locked", "MEDIA_WRITE_PROTECTED"),
        ("mkdir folder", "ACCESS_DENIED"),
        ("rmdir disk0", "NOT_A_DIRECTORY|ACCESS_DENIED"),
        ("cd disk0", "NOT_A_DIRECTORY"),
        ("rm disk0", "ACCESS_DENIED"),
        ("wdel 0 disk0", "ACCESS_DENIED"),
        ("rename disk0 other", "ACCESS_DENIED"),
        ("hardlink disk0 other", "NOT_SUPPORTED"),
        ("symlink disk0 other", "ACCESS_DENIED"),
        ("scopy disk0 other", "ACCESS_DENIED"),
        ("setea disk0 name value", "EAS_NOT_SUPPORTED"),
        ("geteas disk0", "NO_EAS_ON_FILE"),
        ("allinfo none", "OBJECT_NAME_NOT_FOUND"),
        ("get disk0:stream /dev/null", "OBJECT_NAME_INVALID"),
    ],
)
def test_what_is_refused(peer: Peer, command: str, status: str) -> None:
    assert re.search(f"NT_STATUS_({status})", peer.smbclient(command))
    assert (peer.cluster.folder / "disks/disk0.img").stat().st_size == MIB


@pytest.mark.parametrize(
    "command", ["posix", "stat disk0", "chmod 644 disk0", "chown 0 0 disk0", "getfacl disk0", "link disk0 x"]
)
def test_unix_extensions_are_not_offered(peer: Peer, command: str) -> None:
    assert "Server doesn't support UNIX CIFS" in peer.smbclient(command)


def test_reading_and_writing_in_every_way(peer: Peer, tmp_path: Path) -> None:
    def same(name: str) -> bool:
        return (tmp_path / name).read_bytes() == CONTENT

    peer.smbclient(f"lcd {tmp_path}; prompt; mget *", status=0)
    assert all(same(name) for name in ("disk0", "locked", LONG))
    with (tmp_path / "disk0").open("r+b") as part:
        part.truncate(300 * KIB)
    peer.smbclient(f"reget disk0 {tmp_path}/disk0", status=0)
    assert same("disk0")
    peer.smbclient(f"tar c {tmp_path}/all.tar disk0 {LONG}", status=0)
    (tmp_path / "out").mkdir()
    run("tar", "-xf", tmp_path / "all.tar", "-C", tmp_path / "out")
    assert same("out/disk0")
    assert same(f"out/{LONG}")


def test_put_keeps_the_size_of_a_disk(peer: Peer, tmp_path: Path) -> None:
    """A shorter file overwrites the beginning. A longer file is refused before anything is written."""
    disk = peer.cluster.folder / f"disks/{LONG}.img"
    (tmp_path / "short").write_bytes(b"n" * (100 * KIB))
    peer.smbclient(f"put {tmp_path}/short {LONG}", status=0)
    assert disk.read_bytes()[: 100 * KIB] == b"n" * (100 * KIB)
    assert disk.read_bytes()[100 * KIB :] == CONTENT[100 * KIB :]
    (tmp_path / "long").write_bytes(bytes(MIB + 1))
    assert "NT_STATUS_DISK_FULL" in peer.smbclient(f"put {tmp_path}/long {LONG}")
    assert disk.stat().st_size == MIB
    # reput goes on from the end of the file. The whole size of a disk is there already.
    (tmp_path / "whole").write_bytes(CONTENT)
    peer.smbclient(f"put {tmp_path}/whole {LONG}", status=0)
    peer.smbclient(f"reput {tmp_path}/whole {LONG}", status=0)
    assert disk.read_bytes() == CONTENT


def test_acls_tell_what_the_node_may_do(peer: Peer) -> None:
    """The descriptor gives every user what the config gives to the node, whatever this open asked for."""
    read, write = 0x1200A9, 0x1201BF
    for name, rights in (("disk0", write), ("locked", read), ("", read)):
        text = peer.smbcacls(name)
        assert "OWNER:S-1-5-18\nGROUP:S-1-5-18\n" in text
        assert f"ACL:S-1-5-18:0/0x0/0x{0x1F01FF:08x}\n" in text
        assert f"ACL:S-1-5-11:0/0x0/0x{rights:08x}\n" in text


def test_what_is_audited_is_nobodys_to_see(peer: Peer) -> None:
    """smbcacls and getcifsacl go on without the SACL after exactly this status."""
    sacl = 15
    assert "NT_STATUS_PRIVILEGE_NOT_HELD" in peer.smbcacls("disk0", f"--query-security-info={sacl}", status=1)


def test_acls_are_not_changed(peer: Peer) -> None:
    before = peer.smbcacls("disk0")
    for options in (["--add", "ACL:S-1-1-0:ALLOWED/0x0/FULL"], ["--chown", "S-1-1-0"]):
        assert "NT_STATUS_ACCESS_DENIED" in peer.smbcacls("disk0", *options, status=None)
    assert peer.smbcacls("disk0") == before
