"""A real Samba server for one test module, on 127.0.0.1, in a folder of its own."""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from meshfs.initiator.channel.channel import Channel
from meshfs.initiator.session.commands import RemoteOpen
from meshfs.smb.constants import Command
from meshfs.smb.messages import FlushRequest

SMBD = "/usr/sbin/smbd"
USER = "root"
PASSWORD = "a password of this test"
START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 10.0

_CONF = """
[global]
    server role = standalone server
    workgroup = MESHTEST
    netbios name = PEER
    security = user
    map to guest = never
    interfaces = 127.0.0.1/8
    bind interfaces only = yes
    smb ports = {port}
    disable netbios = yes
    disable spoolss = yes
    load printers = no
    server min protocol = SMB3_00
    passdb backend = tdbsam:{base}/passdb.tdb
    private dir = {base}/private
    state directory = {base}/state
    cache directory = {base}/cache
    lock directory = {base}/lock
    pid directory = {base}/pid
    ncalrpc dir = {base}/ncalrpc
    log file = {base}/log
    log level = 1
    max log size = 0
    server signing = mandatory
    {extra}
[plain]
    path = {base}/plain
    read only = no
"""


@dataclass(frozen=True)
class Smbd:
    base: Path
    port: int
    pid: int

    @property
    def share(self) -> Path:
        return self.base / "plain"


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextmanager
def running_smbd(base: Path, extra: str = "") -> Iterator[Smbd]:
    """Run an smbd with one share, `plain`. smbd and its children end with the block."""
    for name in ("private", "state", "cache", "lock", "pid", "ncalrpc", "plain"):
        (base / name).mkdir(parents=True)
    port = free_port()
    conf = base / "smb.conf"
    conf.write_text(_CONF.format(base=base, port=port, extra=extra))
    text = f"{PASSWORD}\n{PASSWORD}\n"
    add = [shutil.which("smbpasswd") or "smbpasswd", "-c", str(conf), "-s", "-a", USER]
    subprocess.run(add, input=text, text=True, check=True, capture_output=True, timeout=START_TIMEOUT_S)
    command = [SMBD, "-F", "--no-process-group", "-s", str(conf)]
    with (base / "output").open("wb") as output:
        # At its end, smbd signals its whole process group (killkids).
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    try:
        _wait_for(port, process, base)
        yield Smbd(base, port, process.pid)
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(port: int, process: "subprocess.Popen[bytes]", base: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise RuntimeError(f"smbd does not answer: {(base / 'output').read_text()} {process.poll()}")


async def flush_file(channel: Channel, file: RemoteOpen) -> None:
    """Send FLUSH, as an initiator does."""
    body = FlushRequest(file.file_id).pack()
    await channel.answer(channel.start_request(Command.FLUSH, body, tree_id=file.tree.tree_id))
