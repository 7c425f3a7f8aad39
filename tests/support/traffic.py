"""TCP between the hosts of a test network, from the test's own process."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

from meshlab.cluster.network import Host, Nic

PORT = 5001
CHUNK_BYTES = 1 << 20
# After this time, the token buckets are full and the TCP window has opened.
WARM_UP_S = 0.5


def reachable(host: Host, nic: Nic, timeout_s: float = 1.5) -> bool:
    """Return whether the host gets an answer from the interface, where nobody listens. A refusal is an answer."""
    with host.entered():
        probe = socket.socket()
    with probe:
        probe.settimeout(timeout_s)
        try:
            probe.connect((nic.address, 1))
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    raise AssertionError(f"somebody listens on {nic.address}:1")


@contextmanager
def connected(host: Host, nic: Nic) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Connect the host to the interface, and yield both ends."""
    with nic.host.entered():
        listening = socket.create_server((nic.address, PORT))
    with host.entered():
        near = socket.socket()
    with listening, near:
        near.settimeout(5)
        near.connect((nic.address, PORT))
        far, _ = listening.accept()
        with closing(far):
            far.settimeout(5)
            yield near, far


def throughput_bits_s(sender: socket.socket, receiver: socket.socket, seconds: float = 1.5) -> float:
    """Return what one connection carries after a warm-up, counted at the receiver."""
    end = time.monotonic() + WARM_UP_S + seconds
    chunk = bytes(CHUNK_BYTES)

    def send() -> None:
        while time.monotonic() < end:
            sender.sendall(chunk)
        sender.shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=send)
    thread.start()
    buffer = bytearray(CHUNK_BYTES)
    begun = time.monotonic()
    marks = [(begun, 0)]
    while got := receiver.recv_into(buffer):
        marks.append((time.monotonic(), marks[-1][1] + got))
    thread.join()
    first = next(mark for mark in marks if mark[0] > begun + WARM_UP_S)
    last = marks[-1]
    return (last[1] - first[1]) * 8 / (last[0] - first[0])
