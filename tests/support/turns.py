"""An exporter at a Unix socket whose processor's clock advances at each look, and clients in threads."""

from contextlib import asynccontextmanager

import trio

from meshfs import limits
from meshfs.exporter.serving.listener import Listener
from meshfs.smb.constants import Command
from meshfs.smb.messages import EchoRequest
from meshfs.transport.listening import listen_unix
from meshlab.smb.socket_initiator import SocketInitiator
from support.waiting import until

ECHO = EchoRequest().pack()
in_thread = trio.to_thread.run_sync


class StepClock:
    """A clock that advances by a quarter of a turn at each look."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        self.now_s += limits.TURN_S / 4
        return self.now_s


@asynccontextmanager
async def serving(exporter, path):
    exporter.processor.clock = exporter.processor.spent = StepClock()
    with listen_unix(path) as listening:
        listener = Listener(exporter, [listening])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listener.run)
            yield listener
            await until(lambda: exporter.processor.is_idle)
            nursery.cancel_scope.cancel()
    assert not exporter.sessions
    assert exporter.pool.used_bytes == 0


def client_of(path, node="n2", share="disks"):
    client = SocketInitiator(str(path)).log_in(node, share)
    client.call(Command.ECHO, ECHO, credits=500)
    return client


async def all_at_once(*clients_and_frames):
    """Put all frames into the exporter's sockets before it reads any, in this order, and take all replies."""

    for client, frames in clients_and_frames:
        # This runs in the loop's own thread, because the loop must stand still meanwhile.
        client.deliver(*(frame for _, frame in frames))

    def take():
        return [[client.take(message_id) for message_id, _ in frames] for client, frames in clients_and_frames]

    return await in_thread(take)
