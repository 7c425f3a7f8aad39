"""tools/guest as a command: its exit status and output if the guest runs, hangs or panics."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from vm.run import STATUS_DIED, STATUS_TIMED_OUT

pytestmark = [pytest.mark.peers, pytest.mark.boots]

ROOT = Path(__file__).resolve().parents[2]
#: The time is enough for a boot on a machine that has other work.
BOOT_TIMEOUT_S = 240


def guest(*words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(ROOT / "tools/lib/guest.py"), *words]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=290, check=False)


def test_output_status_and_files_come_back_and_the_hosts_stay_as_they_are(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_text("host")
    script = (
        f"cat {kept}; echo guest >{kept}; echo error >&2; uname -r >$MESHFS_GUEST_OUTPUT/kernel;"
        "cat /sys/block/vda/serial; cat /sys/block/vda/size; exit 7"
    )
    output = tmp_path / "output"
    options = ["--timeout", str(BOOT_TIMEOUT_S), "--disk", "virtio-blk:1M", "--output", str(output)]
    done = guest(*options, "--", "sh", "-c", script)
    assert done.returncode == 7, done.stderr
    assert done.stdout == "hostvirtio-blk-02048\n"
    # tools/guest writes lines of its own, for example if the guest died at its boot and was booted again.
    assert [line for line in done.stderr.splitlines() if not line.startswith("tools/guest: ")] == ["error"]
    assert kept.read_text() == "host"
    assert (output / "output/kernel").read_text().startswith("6.12.")


def test_a_panic_has_its_own_status_and_shows_the_console() -> None:
    done = guest("--timeout", str(BOOT_TIMEOUT_S), "--", "sh", "-c", "echo begun; echo c >/proc/sysrq-trigger")
    assert (done.returncode, done.stdout) == (STATUS_DIED, "begun\n"), done.stderr
    assert "sysrq_handle_crash" in done.stderr


def test_a_hang_ends_by_the_timeout_and_shows_what_is_blocked() -> None:
    """A frozen file system blocks its writer in the kernel, and no signal ends the writer."""
    freeze = "fsfreeze --freeze /run/ext4; echo begun; exec touch /run/ext4/file"
    make = "truncate -s 8M /run/image; mkfs.ext4 -q /run/image; mkdir /run/ext4; mount -o loop /run/image /run/ext4"
    start = time.monotonic()
    done = guest("--timeout", "45", "--", "sh", "-c", f"{make}; {freeze}")
    assert done.returncode == STATUS_TIMED_OUT, done.stderr
    assert time.monotonic() - start < BOOT_TIMEOUT_S
    # A slow machine may not have reached the hang in this time. Then there is nothing to check.
    assert "touch" in done.stderr or not done.stdout
