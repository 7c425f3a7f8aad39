"""The umount command that the process of a mount starts when it has to end."""

from pathlib import Path

import pytest

from meshfs import limits
from meshfs.mount.unmounting import OwnMount, unmount_when_free


class Mounted(OwnMount):
    def is_there(self) -> bool:
        return True


async def test_a_mount_is_served_on_where_the_command_cannot_be_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(limits, "UNMOUNT_BUSY_S", 0.1)
    await unmount_when_free(Mounted("/mesh"))
    (line,) = caplog.messages
    assert line.startswith("the mount is still served, for at most 0.1 s, because ")
    assert "cannot be started: " in line
