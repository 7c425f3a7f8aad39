"""The package on a bare Debian 12: it installs without a network, serves, mounts, and leaves nothing behind."""

import hashlib
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshfs import __version__
from support.bare_debian import DEPENDENCIES, bare_debian
from support.commands import run
from support.named_tests import ROOT
from support.systemd_machine import SystemdMachine, unavailable

pytestmark = [
    pytest.mark.mounted,
    pytest.mark.skipif(bool(unavailable()), reason=unavailable() or "none"),
    # The first run builds the system and the wheels.
    pytest.mark.timeout(600),
]

PATIENCE_S = 20
CONFIG = """\
[cluster]
name = "demo"
keys = "keys"

[[node]]
name = "n1"
addresses = ["127.0.0.2"]
socket = "/run/meshfs/n1/smb.sock"

  [[node.disk]]
  name = "disk0"
  path = "/srv/disk0.img"
"""
#: Folders in which a package leaves nothing when it is removed. dpkg and systemd write to other folders of /var.
PLACES = ("/etc", "/usr", "/mesh", "/opt", "/var/lib/meshfs", "/run/meshfs")


def build(folder: Path) -> Path:
    """Build the package as tools/package does, in the environment that runs the tests."""
    run(sys.executable, ROOT / "tools/lib/package.py", "--output", folder)
    (package,) = folder.glob("*.deb")
    return package


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("package"))


@pytest.fixture(scope="module")
def bare() -> Path:
    return bare_debian()


@pytest.fixture
def machine(tmp_path: Path, bare: Path) -> Iterator[SystemdMachine]:
    """Yield a bare machine that is running, without the package. It has no network but the loopback interface."""
    with SystemdMachine(tmp_path, bare) as machine:
        machine.boot()
        yield machine


def put(machine: SystemdMachine, package: Path) -> Path:
    """Copy the package to a path that is the same in the machine."""
    return Path(shutil.copy(package, machine.share))


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, bare: Path, package: Path) -> Iterator[SystemdMachine]:
    """Yield a running machine with the package, for tests that only look."""
    with SystemdMachine(tmp_path_factory.mktemp("installed") / "machine", bare) as machine:
        machine.boot()
        machine.run("dpkg", "--install", put(machine, package))
        yield machine


def files_of(machine: SystemdMachine) -> set[str]:
    places = " ".join(PLACES)
    return set(machine.shell(f"find {places} ! -path '*/__pycache__*' 2>/dev/null || true").splitlines())


def bytecode_of(machine: SystemdMachine) -> str:
    return machine.shell("find / -xdev -name '*.pyc' -path '*meshfs*'")


def test_a_whole_life_of_the_package(machine: SystemdMachine, package: Path) -> None:
    """Install, configure, serve, mount by each of three ways, be refused, remove, purge."""
    here = put(machine, package)
    before = files_of(machine)
    machine.run("dpkg", "--install", here)
    assert machine.run("meshctl", "--version").strip() == f"meshctl {__version__}"
    assert "usage: meshctl" in machine.run("meshctl", "--help")
    assert bytecode_of(machine)

    machine.shell(f"cat >/etc/meshfs/cluster.toml <<'END'\n{CONFIG}END\n")
    machine.shell("truncate --size=64M /srv/disk0.img; hostname n1; meshctl keygen /etc/meshfs/cluster.toml")
    machine.run("systemctl", "enable", "--now", "meshfsd@n1", "mesh.mount")
    disk = "/mesh/disk/by-id/meshfs-n1-disk0"
    machine.shell(f"echo hello | dd of={disk} conv=notrunc,fsync status=none")
    assert machine.run("head", "-c", "5", "/srv/disk0.img") == "hello"
    machine.run("meshctl", "status")

    refused = machine.run("dpkg", "--remove", "meshfs", status=1)
    assert "a mesh is mounted. Unmount it first: /mesh" in refused
    assert machine.run("head", "-c", "5", disk) == "hello"
    machine.run("systemctl", "stop", "mesh.mount")
    for kind in ("meshfs", "fuse.meshfs"):
        machine.run("mount", "-t", kind, "/etc/meshfs/cluster.toml", "/mesh", "-o", "wait=own")
        assert machine.run("head", "-c", "5", disk) == "hello"
        machine.run("umount", "/mesh")

    machine.run("dpkg", "--remove", "meshfs")
    assert machine.run("systemctl", "is-active", "meshfsd@n1", status=None).strip() != "active"
    kept = ("/etc/meshfs/", "/var/lib/meshfs/")
    assert {path for path in files_of(machine) - before if not f"{path}/".startswith(kept)} == set()
    assert bytecode_of(machine) == ""
    assert machine.run("ls", "/etc/meshfs", "/var/lib/meshfs").split() != []
    said = machine.run("dpkg", "--purge", "meshfs")
    assert "/etc/meshfs stays" in said
    assert {path for path in files_of(machine) - before if not f"{path}/".startswith("/etc/meshfs/")} == set()
    assert machine.run("ls", "/etc/meshfs").split() == ["cluster.toml", "keys"]


def test_removal_of_what_was_never_used_leaves_nothing_at_all(machine: SystemdMachine, package: Path) -> None:
    before = files_of(machine)
    here = put(machine, package)
    machine.run("dpkg", "--install", here)
    assert "the package meshfs has put everything in place" in machine.run("meshctl", "install", status=2)
    machine.run("dpkg", "--install", here)
    machine.run("dpkg", "--purge", "meshfs")
    assert files_of(machine) == before
    assert bytecode_of(machine) == ""


def test_the_package_needs_no_package_that_it_does_not_name(package: Path) -> None:
    """The tests' system has the named packages that are not in the smallest set, and no others for meshfs."""
    named = run("dpkg-deb", "--field", package, "Depends")
    assert set(DEPENDENCIES) <= set(re.findall(r"[\w.+-]+", named))


def test_two_builds_give_the_same_package(package: Path, tmp_path: Path) -> None:
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (package, build(tmp_path))]
    assert digests[0] == digests[1]


def test_no_file_names_the_machine_that_built_the_package(package: Path, tmp_path: Path) -> None:
    run("dpkg-deb", "--extract", package, tmp_path)
    found = run("grep", "--recursive", "--files-with-matches", "--fixed-strings", str(ROOT), tmp_path, status=None)
    assert found == ""


@pytest.mark.parametrize("page", ["8 meshctl", "8 meshfsd", "8 meshfs", "8 mount.meshfs", "5 cluster.toml"])
def test_the_manual_pages_are_shown_without_a_warning(installed: SystemdMachine, page: str) -> None:
    shown = installed.shell(f"LC_ALL=C.UTF-8 MANWIDTH=100 MAN_KEEP_FORMATTING= man --warnings=w {page} 2>&1 | col -b")
    name = page.partition(" ")[2]
    assert f"{'meshfs' if name == 'mount.meshfs' else name} - " in shown
    assert ": warning" not in shown
    assert not re.search(r"\\f[BIR]|\\-|\*\*|\]\(", shown), "marks of the source in the text"
    assert "meshctl" in installed.run("man", "--whatis", "meshctl")


def type_into(installed: SystemdMachine, shell: list[str], keys: list[str], wanted: str) -> str:
    """Type into a shell on a terminal of its own, and return what it shows, at the latest when it shows ``wanted``."""
    controller, terminal = pty.openpty()
    command = installed.command("env", "TERM=dumb", "HOME=/root", "LC_ALL=C.UTF-8", *shell)
    with subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True) as process:
        os.close(terminal)
        shown = ""
        try:
            for number, typed in enumerate(keys):
                mark = f"ready-{number}"
                os.write(controller, f"echo rea''dy-{number}\n".encode())
                shown = read_until(controller, mark)
                os.write(controller, typed.encode())
            shown = read_until(controller, wanted)
        finally:
            process.kill()
            os.close(controller)
    return shown


def read_until(controller: int, wanted: str) -> str:
    shown, deadline = "", time.monotonic() + PATIENCE_S
    while wanted not in shown and time.monotonic() < deadline:
        if select.select([controller], [], [], 0.1)[0]:
            # A shell may ring the bell in the middle of a word.
            shown += os.read(controller, 4096).decode(errors="replace").replace("\a", "")
    return shown


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        ("meshctl keyg\t", "meshctl keygen "),
        ("meshctl flows re\t", "meshctl flows reset "),
        ("meshctl status --js\t", "meshctl status --json "),
        ("meshfsd --log-level=w\t", "meshfsd --log-level=warning "),
        ("meshfs /etc/passwd /mnt -o ro,io_\t", "-o ro,io_timeout="),
        ("meshfs /etc/passw\t", "meshfs /etc/passwd"),
        ("meshctl keygen /etc/passw\t", "meshctl keygen /etc/passwd"),
    ],
)
def test_bash_completes(installed: SystemdMachine, typed: str, wanted: str) -> None:
    assert wanted in type_into(installed, ["bash", "--login", "-i"], [typed], wanted)


def test_bash_lists_the_verbs(installed: SystemdMachine) -> None:
    assert "password" in type_into(installed, ["bash", "--login", "-i"], ["meshctl \t\t"], "password")


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        ("meshctl keyg\t", "meshctl keygen "),
        ("meshctl flows re\t", "meshctl flows reset "),
        ("meshctl keygen --js\t", "meshctl keygen --json"),
        ("meshfs /etc/passwd /mnt -o ro,io_\t", "-o ro,io_timeout="),
    ],
)
def test_zsh_completes(installed: SystemdMachine, typed: str, wanted: str) -> None:
    start = "autoload -U compinit; compinit -u -D\n"
    assert wanted in type_into(installed, ["zsh", "-f", "-i"], [start, typed], wanted)


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("meshctl keyg", "keygen\tmake the missing key pairs of nodes; never overwrite a key"),
        ("meshctl flows re", "reset"),
        ("meshfsd --log-level w", "warning"),
        ("meshfs /etc/passwd /mnt -o ro,io_", "ro,io_timeout=\tend every I/O within S seconds"),
        ("meshctl keygen /etc/passw", "/etc/passwd"),
    ],
)
def test_fish_completes(installed: SystemdMachine, line: str, wanted: str) -> None:
    shown = installed.run(
        "env", "HOME=/root", "LC_ALL=C.UTF-8", "fish", "--command", f"complete --do-complete '{line}'"
    )
    assert any(each.startswith(wanted) for each in shown.splitlines()), shown
