"""The FUSE side on a real kernel: a mount with disks in memory, in a process of its own."""

import errno
import json
import mmap
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.mounted

SIZE = 8 << 20
GUARD_S = 60  # Nothing here takes long. If a call hangs, the test must fail instead of stopping the suite.


class FakeMount:
    """A process of ``meshlab.fakes.mount``."""

    def __init__(self, mountpoint: Path, **options: Any) -> None:
        self.mountpoint = mountpoint
        mountpoint.mkdir()
        command = [sys.executable, "-m", "meshlab.fakes.mount", str(mountpoint)]
        settings = {"nodes": {"n1": 2}, "size_bytes": SIZE, **options}
        self.process = subprocess.Popen([*command, json.dumps(settings)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.line() == "ready"

    def line(self) -> str:
        assert self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], GUARD_S)
        assert readable
        return self.process.stdout.readline().decode().strip()

    def tell(self, text: str) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode() + b"\n")
        self.process.stdin.flush()
        return self.line()

    def calls(self, disk_id: str) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.tell(f"calls {disk_id}"))
        return answer

    def disk(self, name: str = "disk0", node: str = "n1") -> Path:
        return self.mountpoint / "disk" / "by-node" / node / name

    def end(self) -> None:
        subprocess.run(["umount", "-l", self.mountpoint], check=False, capture_output=True)
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., FakeMount]]:
    mounts: list[FakeMount] = []

    def start_one(**options: Any) -> FakeMount:
        mounts.append(FakeMount(tmp_path / f"mesh{len(mounts)}", **options))
        return mounts[-1]

    yield start_one
    for mount in mounts:
        mount.end()


@pytest.fixture
def mount(start: Callable[..., FakeMount]) -> FakeMount:
    return start()


def run(*command: object, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=GUARD_S, check=False, **options
    )


def ok(*command: object, **options: Any) -> str:
    result = run(*command, **options)
    assert result.returncode == 0, result.stderr
    return result.stdout


def refused(call: Callable[..., object], *args: Any) -> int | None:
    try:
        call(*args)
    except OSError as error:
        return error.errno
    return None


def test_dd_cp_and_cmp(mount: FakeMount, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(SIZE))
    ok("dd", f"if={source}", f"of={mount.disk()}", "bs=1M", "oflag=direct", "conv=notrunc")
    ok("cmp", source, mount.disk())
    ok("cp", source, mount.disk("disk1"))
    ok("cmp", source, mount.disk("disk1"))
    ok("cp", mount.disk("disk1"), tmp_path / "copy")
    ok("cmp", source, tmp_path / "copy")
    ok("dd", f"if={source}", f"of={mount.disk()}", "bs=777", "count=100")
    too_much = run("dd", "if=/dev/zero", f"of={mount.disk()}", "bs=1M")
    assert "No space left on device" in too_much.stderr
    assert f"{SIZE} bytes" in too_much.stderr


@pytest.mark.parametrize("cache", ["page", "none"])
def test_o_trunc_changes_nothing_until_something_is_skipped(start: Callable[..., FakeMount], cache: str) -> None:
    disk = start(cache=cache).disk()
    with open(disk, "r+b", buffering=0) as before:
        before.write(b"kept")
        fd = os.open(disk, os.O_RDWR | os.O_TRUNC)
        try:
            assert os.pread(fd, 4, 0) == b"kept"
            assert before.seek(0) == 0
            assert before.read(4) == b"kept"
            assert os.fstat(fd).st_size == os.lseek(fd, 0, os.SEEK_END) == SIZE
            assert os.pwrite(fd, b"x", 1) == 1
            assert os.pread(fd, 4, 0) == b"\0xpt"
        finally:
            os.close(fd)
    assert disk.stat().st_size == SIZE


def test_the_end_of_the_disk(mount: FakeMount) -> None:
    fd = os.open(mount.disk(), os.O_RDWR)
    try:
        assert os.pwrite(fd, b"x" * 100, SIZE - 60) == 60
        assert refused(os.pwrite, fd, b"x", SIZE) == errno.ENOSPC
        assert refused(os.pwrite, fd, b"x", SIZE + 12345) == errno.ENOSPC
        assert os.pread(fd, 100, SIZE) == b""
        assert len(os.pread(fd, 100, SIZE - 10)) == 10
        assert os.fstat(fd).st_size == SIZE
    finally:
        os.close(fd)


def test_what_file_tools_must_not_do(mount: FakeMount, tmp_path: Path) -> None:
    by_id = mount.mountpoint / "disk" / "by-id" / "meshfs-n1-disk0"
    new = mount.mountpoint / "disk" / "by-id" / "new"
    (tmp_path / "file").write_bytes(b"")
    for number, call in enumerate((
        lambda: os.truncate(by_id, 0),
        lambda: os.truncate(by_id, SIZE * 2),
        lambda: os.unlink(by_id),
        lambda: os.unlink(mount.disk()),
        lambda: os.rename(by_id, new),
        lambda: os.mkdir(new),
        lambda: os.rmdir(mount.mountpoint / "enclosure" / "by-id"),
        lambda: os.symlink("x", new),
        lambda: os.link(by_id, new),
        lambda: os.close(os.open(new, os.O_CREAT | os.O_WRONLY)),
        lambda: os.chmod(by_id, 0o666),
        lambda: os.chown(by_id, 1, 1),
        lambda: os.setxattr(by_id, "user.meshfs.id", b"x"),
    )):  # fmt: skip
        assert refused(call) == errno.EPERM, number
    os.utime(by_id)
    os.truncate(by_id, SIZE)


def test_extended_attributes_and_the_hidden_status(mount: FakeMount) -> None:
    assert os.getxattr(mount.disk(), "user.meshfs.id") == b"meshfs-n1-disk0"
    assert "user.meshfs.state" in os.listxattr(mount.disk())
    assert refused(os.getxattr, mount.disk(), "user.nothing") == errno.ENODATA
    assert os.listdir(mount.mountpoint) == ["disk", "enclosure"]
    assert (mount.mountpoint / ".meshfs" / "status").read_bytes() == b'{"version":1}'


def test_permissions_are_by_mode(mount: FakeMount) -> None:
    # The path is relative to the mount, because the folders above it are closed to other users.
    nobody = {"user": 65534, "group": 65534, "cwd": mount.mountpoint}
    disk = mount.disk().relative_to(mount.mountpoint)

    def opens(*groups: int) -> str:
        read = "import sys; open(sys.argv[1], 'r+b').read(1)"
        return run("/usr/bin/python3", "-c", read, disk, extra_groups=list(groups), **nobody).stderr

    assert "PermissionError" in opens()
    assert opens(mount.disk().stat().st_gid) == ""
    # Everybody may know whether all is well. `Mesh` leaves out the details for users other than root.
    assert run("cat", ".meshfs/status", extra_groups=[], **nobody).stdout == '{"version":1}'


def test_a_read_only_disk(start: Callable[..., FakeMount]) -> None:
    disk = start(read_only=True).disk("disk1")
    assert disk.stat().st_mode & 0o777 == 0o440
    assert refused(os.open, disk, os.O_RDWR) == errno.EROFS
    assert len(disk.read_bytes()) == SIZE


def test_class_and_write_through_are_taken_at_open(mount: FakeMount) -> None:
    ok("dd", "if=/dev/zero", f"of={mount.disk()}", "bs=4k", "count=1", "oflag=dsync", "conv=notrunc")
    ok("ionice", "-c", "idle", "dd", f"if={mount.disk()}", "of=/dev/null", "bs=4k", "count=1", "iflag=direct")
    seen = mount.calls("meshfs-n1-disk0")
    assert seen["opened"] == [["app", True], ["system", False]]
    assert seen["calls"][0] == ["write", 0, 4096, True]
    assert seen["calls"][-1] == ["read", 0, 4096, None]


def test_errors_reach_the_caller_and_leave_others_alone(mount: FakeMount) -> None:
    buffer = mmap.mmap(-1, 4096)
    fd = os.open(mount.disk(), os.O_RDWR | os.O_DIRECT)
    try:
        for number in (errno.EIO, errno.ETIMEDOUT, errno.ENOSPC):
            assert mount.tell(f"meshfs-n1-disk0 {number}") == "done"
            assert refused(os.preadv, fd, [buffer], 0) == number
            assert refused(os.pwritev, fd, [buffer], 0) == number
            assert refused(os.fsync, fd) == number
            assert len(mount.disk("disk1").read_bytes()) == SIZE
        assert mount.tell("meshfs-n1-disk0 0") == "done"
        assert os.preadv(fd, [buffer], 0) == 4096
    finally:
        os.close(fd)


def test_many_requests_that_wait_stop_nobody_else(mount: FakeMount) -> None:
    assert mount.tell("meshfs-n1-disk0 hang") == "done"
    waiting = subprocess.Popen(
        ["fio", "--name=w", f"--filename={mount.disk().resolve()}", "--rw=randread", "--bs=4k",
         "--direct=1", "--ioengine=libaio", "--iodepth=128", "--size=8m"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + GUARD_S
        while len(mount.calls("meshfs-n1-disk0")["calls"]) < 128:
            assert time.monotonic() < deadline
        fio(mount.disk("disk1"), rw="randwrite", bs="4k", direct=1, ioengine="libaio", iodepth=16)
        assert len(os.listdir(mount.mountpoint / "disk" / "by-id")) == 2
    finally:
        mount.end()
        waiting.kill()
        waiting.wait(GUARD_S)


def test_killed_callers_leave_a_mount_that_serves(start: Callable[..., FakeMount]) -> None:
    mount = start(delay_s=0.003)
    for _ in range(20):
        before = len(mount.calls("meshfs-n1-disk0")["calls"])
        readers = [
            subprocess.Popen(["dd", f"if={mount.disk()}", "of=/dev/null", "bs=4k", "iflag=direct", "status=none"])
            for _ in range(4)
        ]
        deadline = time.monotonic() + GUARD_S
        while len(mount.calls("meshfs-n1-disk0")["calls"]) < before + 10:
            assert time.monotonic() < deadline
        for reader in readers:
            reader.kill()
            reader.wait(GUARD_S)
    assert len(mount.disk("disk1").read_bytes()) == SIZE
    deadline = time.monotonic() + GUARD_S
    while mount.calls("meshfs-n1-disk0")["handles"]:
        assert time.monotonic() < deadline


def fio(disk: Path, **job: object) -> None:
    arguments = [f"--{name}={value}" for name, value in job.items()]
    ok("fio", "--name=job", f"--filename={disk.resolve()}", f"--size={SIZE}", "--allow_file_create=0",
       "--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0", *arguments)  # fmt: skip


@pytest.mark.parametrize("cache", ["page", "none"])
@pytest.mark.parametrize("direct", [0, 1])
def test_fio_finds_what_it_wrote(start: Callable[..., FakeMount], cache: str, direct: int) -> None:
    disk = start(cache=cache).disk()
    fio(disk, rw="randwrite", bsrange="4k-256k", direct=direct, ioengine="libaio", iodepth=16)
    fio(disk, rw="write", bs="1m", direct=direct, ioengine="psync")
    if not direct:
        fio(disk, rw="randwrite", bsrange="512-64k", bs_unaligned=1, ioengine="mmap" if cache == "page" else "psync")


def test_fio_finds_what_it_wrote_when_every_request_waits(start: Callable[..., FakeMount]) -> None:
    disk = start(delay_s=0.002).disk()
    fio(disk, rw="randwrite", bsrange="4k-64k", direct=1, ioengine="libaio", iodepth=32, numjobs=1)
    fio(disk, rw="randrw", bs="64k", direct=0, ioengine="psync")


def test_an_unknown_pyfuse3_serves_with_its_own_loop(start: Callable[..., FakeMount]) -> None:
    mount = start(plain_loop=True, delay_s=0.001)
    fio(mount.disk(), rw="randwrite", bs="16k", direct=1, ioengine="libaio", iodepth=16)
    ok("umount", mount.mountpoint)
    assert mount.process.wait(GUARD_S) == 0


def test_a_file_system_on_a_loop_device(mount: FakeMount, tmp_path: Path) -> None:
    target = tmp_path / "ext4"
    target.mkdir()
    device = ok("losetup", "--find", "--show", mount.disk()).strip()
    try:
        ok("mkfs.ext4", "-q", device)
        ok("mount", device, target)
        try:
            shutil.copytree(Path(json.__file__).parent, target / "json")
        finally:
            ok("umount", target)
        ok("fsck.ext4", "-f", "-n", device)
        ok("mount", "-o", "ro", device, target)
        try:
            ok("diff", "-r", Path(json.__file__).parent, target / "json")
        finally:
            ok("umount", target)
    finally:
        ok("losetup", "--detach", device)


def test_four_hundred_and_sixteen_disks(start: Callable[..., FakeMount]) -> None:
    mount = start(nodes={f"n{node}": 26 for node in range(16)}, size_bytes=0)
    listed = ok("ls", "-lR", mount.mountpoint)
    assert listed.count(" -> ../../by-id/") == 416
    assert len(os.listdir(mount.mountpoint / "disk" / "by-id")) == 416
    resident_kib = next(
        int(line.split()[1])
        for line in Path(f"/proc/{mount.process.pid}/status").read_text().splitlines()
        if line.startswith("VmRSS")
    )
    assert resident_kib < 200 * 1024


@pytest.mark.parametrize("command", [["umount"], ["fusermount3", "-u"]])
def test_umount_ends_the_process(mount: FakeMount, command: list[str]) -> None:
    with open(mount.disk(), "rb") as held:
        held.read(1)
        assert run("umount", mount.mountpoint).returncode != 0
    ok(*command, mount.mountpoint)
    assert mount.process.wait(GUARD_S) == 0


def test_umount_lazy_ends_the_process_after_the_last_close(mount: FakeMount) -> None:
    with open(mount.disk(), "rb", buffering=0) as held:
        ok("umount", "-l", mount.mountpoint)
        assert held.read(1) == b"\0"
        assert mount.process.poll() is None
    assert mount.process.wait(GUARD_S) == 0


def test_a_killed_mount_can_be_unmounted(mount: FakeMount) -> None:
    held = os.open(mount.disk(), os.O_RDONLY)
    mount.process.send_signal(signal.SIGKILL)
    mount.process.wait(GUARD_S)
    assert refused(os.read, held, 1) in (errno.ENOTCONN, errno.ECONNABORTED)
    assert refused(os.close, held) in (None, errno.ENOTCONN)
    assert refused(os.listdir, mount.mountpoint) == errno.ENOTCONN
    ok("umount", mount.mountpoint)
    assert os.listdir(mount.mountpoint) == []
