"""The control socket of a mount: its place, its mode, and the sockets of killed processes."""

import os
import socket
import stat
from contextlib import ExitStack
from pathlib import Path

import pytest

from meshfs.mount import control as mount_control
from meshfs.mount.options import UsageError, kernel_options, parse_arguments, take_options
from meshfs.mount.reload import Reloader
from meshfs.mount.remount import mount_flags
from meshfs.program.control import RefusedError

#: The bound of the kernel (PID_MAX_LIMIT). No process has a larger number.
PID_MAX = 1 << 22


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(mount_control, "_RUN", tmp_path / "run")
    return tmp_path / "run"


def test_the_control_socket_is_private_and_removed_at_the_end(folder: Path) -> None:
    with mount_control.mount_control() as listening:
        assert listening is not None
        (path,) = folder.iterdir()
        assert path == Path(listening.getsockname())
        assert (stat.S_IMODE(path.stat().st_mode), stat.S_IMODE(folder.stat().st_mode)) == (0o600, 0o700)
    assert not list(folder.iterdir())


def test_the_socket_of_a_killed_process_is_removed_and_that_of_a_living_one_stays(folder: Path) -> None:
    folder.mkdir()
    dead, elsewhere, starting = (folder / f"mount-{pid}-0.ctl" for pid in (PID_MAX + 1, PID_MAX + 2, os.getpid()))
    with ExitStack() as stack:
        for path in (dead, elsewhere, starting):
            listening = stack.enter_context(socket.socket(socket.AF_UNIX))
            listening.bind(str(path))
            if path is elsewhere:
                listening.listen()
            if path is dead:
                listening.close()
        with mount_control.mount_control():
            assert not dead.exists()
            assert elsewhere.exists(), "a process of another pid namespace that has the same /run"
            assert starting.exists(), "a process that does not listen yet"


def test_without_a_place_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setattr(mount_control, "_RUN", tmp_path / "file" / "run")
    with mount_control.mount_control() as listening:
        assert listening is None


@pytest.mark.parametrize("request_", [{"options": "class=app"}, {"options": [1]}, {"config": 5}])
async def test_a_request_of_another_make_is_refused(request_: dict[str, object]) -> None:
    with pytest.raises(RefusedError):
        await Reloader.answer(object.__new__(Reloader), request_)


def test_options_of_a_remount() -> None:
    """mount(8) passes the options that the kernel lists, and then those of its command line."""
    listed = "ro,nosuid,nodev,relatime,remount,user_id=0,group_id=0,default_permissions,allow_other,class=system"
    options = parse_arguments("mount.meshfs", ["c.toml", "/mesh", "-o", listed])
    assert (options.remount, options.own) == (True, ("class=system",))
    assert "remount" not in kernel_options(options, "c.toml", root=True)
    changed = take_options(parse_arguments("meshfs", ["c.toml", "/mesh", "-o", "debug"]), options.own)
    assert (changed.debug, changed.io_class.value) == (True, "system")
    with pytest.raises(UsageError):
        take_options(changed, ["nonsense=1"])


def test_flags_for_the_kernel() -> None:
    quiet = os.ST_NOSUID | os.ST_NODEV
    assert mount_flags(()) & 0xFF == quiet
    assert mount_flags(("ro",)) & 0xFF == quiet | os.ST_RDONLY
    assert mount_flags(("ro", "rw")) & 0xFF == quiet
    assert (
        mount_flags(("noexec", "sync", "noatime")) & 0x4FF == quiet | os.ST_NOEXEC | os.ST_SYNCHRONOUS | os.ST_NOATIME
    )
