"""An SMB client that sends exactly what a test wants, to an exporter in the same process or over a socket.

    exporter = make_exporter(disk0=MemoryDisk(1 << 20))
    client = RawInitiator(exporter)
    client.log_in("n2")
    reply = client.call(Command.ECHO, EchoRequest().pack())

Without a socket, every ``call`` and ``deliver`` runs one batch of the exporter, as the listener does, and then takes
the exporter's replies. The client checks the signature of each reply and puts the result into ``Reply.protection``.
"""

from typing import Any

from meshfs import limits
from meshfs.buffers import BufferPool
from meshfs.disk.base import Disk
from meshfs.exporter.serving.engine import ConnectionEngine
from meshfs.exporter.state.exporter import Exporter
from meshfs.exporter.state.offered_disk import OfferedDisk
from meshfs.exporter.state.peer import Peer
from meshfs.model import Access, DiskInfo, Security
from meshfs.scheduler.decide.queue import FifoQueue
from meshfs.scheduler.runner import Runner
from meshfs.smb.auth import Accounts
from meshfs.smb.connection import PAYLOAD_OFFSETS, Role
from meshfs.transport.framing import FrameReceiver
from meshlab.smb.message_list import MessageList
from meshlab.smb.raw_client import PASSWORDS, RawClient
from meshlab.smb.raw_messages import Reply


def make_exporter(
    security: Security = Security.SIGN,
    *,
    depth: int = 64,
    allow: dict[str, dict[str, Access]] | None = None,
    clock: Any = lambda: 0.0,
    **disks: Disk,
) -> Exporter:
    """Return an exporter of node n1. ``allow`` restricts other nodes: disk name -> node -> access."""
    exporter = Exporter("n1", Accounts(PASSWORDS), security, pool=BufferPool(), clock=clock)
    for name, disk in disks.items():
        access = Access.READ_ONLY if disk.read_only else Access.READ_WRITE
        info = DiskInfo(
            id=f"meshfs-n1-{name}",
            node="n1",
            name=name,
            size_bytes=disk.size_bytes,
            access=access,
            verifier=disk.verifier,
            discard_granularity_bytes=disk.granules.size_bytes,
            discard_alignment_bytes=disk.granules.offset_bytes,
        )
        rules = (allow or {}).get(name, {})
        runner = Runner(FifoQueue(depth), disk, now=clock)
        exporter.disks.add(OfferedDisk(info, runner, lambda node, a=access, r=rules: r.get(node, a)))  # type: ignore[misc]
    return exporter


class RawInitiator(RawClient):
    """Runs a client of an exporter in the same process, without a socket."""

    def __init__(self, exporter: Exporter, remote: str = "test") -> None:
        super().__init__()
        self.exporter = exporter
        self.received = FrameReceiver(
            exporter.pool, PAYLOAD_OFFSETS[Role.EXPORTER], limits.FRAME_MAX_UNAUTHENTICATED_BYTES
        )
        self.peer = Peer(exporter, remote, self.received, MessageList())
        self.engine = ConnectionEngine(self.peer)

    def deliver(self, *frames: bytes | bytearray | memoryview) -> None:
        """Deliver one batch to the exporter. Raises RemoteProtocolError if the exporter ends the connection."""
        data = memoryview(b"".join(frames))
        self.exporter.batches.begin()
        try:
            while data:
                memory = self.received.get_buffer()
                count = min(len(memory), len(data))
                memory[:count] = data[:count]
                self.engine.handle(self.received.received(count))
                data = data[count:]
        finally:
            self.exporter.batches.end()
            self.collect()

    def collect(self) -> list[Reply]:
        """Take the replies that the exporter has sent, and return them."""
        out = self.peer.out
        assert isinstance(out, MessageList)
        new: list[Reply] = []
        for frame in out.take():
            new.extend(self._receive(memoryview(frame)))
        self.replies.extend(new)
        return new

    def finish_set_up(self) -> Reply:
        """Take the reply that had not arrived when ``set_up`` raised AssertionError."""
        message_id, login, preauth, session_id = self.pending
        self.collect()
        reply = self.take(message_id)
        self._take_keys(session_id, login, preauth)
        return reply
