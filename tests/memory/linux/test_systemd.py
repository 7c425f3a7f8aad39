"""Messages to systemd, at a real socket."""

import socket
from pathlib import Path

import pytest

from meshfs.linux.systemd import notify


@pytest.mark.parametrize(
    ("status", "sent"),
    [
        ("STATUS=serving 1 of 1 disks", "STATUS=serving 1 of 1 disks"),
        # The names of files may have bytes that are no UTF-8, and newlines, which would begin another assignment.
        ("STATUS=\udcff.img", "STATUS=\\udcff.img"),
        ("STATUS=a\nMAINPID=1", "STATUS=a MAINPID=1"),
    ],
)
def test_any_status_text_is_one_assignment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: str, sent: str
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        notify("READY=1", status)
        manager.settimeout(5)
        assert manager.recv(1000) == f"READY=1\n{sent}".encode()
