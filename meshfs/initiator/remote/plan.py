"""Plan the paths to one exporter, and with them the channels that should exist. Pure.

A path is a pair of a local and a remote interface. Each path carries the configured number of
channels. The plan follows Windows (MS-SMB2 3.2.5.14.11 leaves it to the client):

    pairs      A remote address is paired with the local interfaces in the same network. In one
               network, the interfaces of both ends are paired in the order of their speed, the
               fastest with the fastest. Each is used once before any is used twice. For a remote
               address in no network of this machine, there is one path, which the kernel routes.
    selected   If paths with RDMA at both ends work, those are used. Otherwise, the paths are used
               whose speed (that of the slower end) is at least half of the fastest one that works.
               The others stay idle until those fail. A path that fails is tried again as long as
               it would be selected if it worked, and keeps no other path out of use meanwhile.
    at most    There are at most limits.CHANNELS_PER_SESSION_MAX channels. The first channel of
               every path comes before the second channel of any.

The speeds come from the drivers. The actual speed of a path is measured, and balance.py uses that.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from meshfs import limits
from meshfs.initiator.session.address import Remote
from meshfs.linux.interfaces import Interface

#: Slower paths cost more by uneven delays than they add. Usually they are meant as a reserve.
_SPEED_SHARE_MIN: Final = 0.5


@dataclass(frozen=True, slots=True)
class Path:
    """Describes a possible channel, with its ``number`` over the pair. Without ``local``, the kernel routes it."""

    remote: Remote
    local: Interface | None = None
    number: int = 0
    #: Is set if this machine has other interfaces in the same network. The path is then bound to this interface.
    ambiguous: bool = False

    @property
    def key(self) -> tuple[str, str, str, int]:
        """Return what identifies the path in another plan, even if more is known of its ends by then."""
        local = self.local
        return (
            (local.name, str(local.address.ip), self.remote.address, self.number)
            if local
            else ("", "", self.remote.address, self.number)
        )

    @property
    def speed_bits_s(self) -> int:
        """Return the speed of the slower end, as far as speeds are known, or 0 if neither is known."""
        speeds = [end.speed_bits_s for end in (self.local, self.remote) if end is not None and end.speed_bits_s]
        return min(speeds, default=0)

    @property
    def rdma(self) -> bool:
        return self.local is not None and self.local.rdma and self.remote.rdma


@dataclass(frozen=True, slots=True)
class Choice:
    """Says of a path why it is not used. ``why_not`` is empty if the path is used."""

    path: Path
    why_not: str = ""


def plan(
    locals_: Sequence[Interface],
    remotes: Sequence[Remote],
    *,
    channels: int,
    works: Callable[[Path], bool],
    rdma: bool = False,
) -> tuple[Choice, ...]:
    """Return every possible path, fast ones first, with the reason for each path that is not to be used.

    Each pair of interfaces gets ``channels`` paths. ``works`` says whether a path is connected, or was not found to be
    broken. ``rdma`` says whether there is a transport for RDMA.
    """
    pairs = sorted(_pairs(locals_, remotes), key=lambda path: -path.speed_bits_s)
    paths = [Path(path.remote, path.local, number, path.ambiguous) for number in range(channels) for path in pairs]
    up = [path for path in paths if path.local is None or path.local.up]
    working = [path for path in up if works(path)] or up
    only_rdma = rdma and any(path.rdma for path in working)
    fastest = max((_speed(path) for path in working if path.rdma or not only_rdma), default=0)
    choices = []
    used = 0
    for path in paths:
        why_not = _why_not(path, fastest, only_rdma)
        if not why_not:
            used += 1
            if used > limits.CHANNELS_PER_SESSION_MAX:
                why_not = f"{limits.CHANNELS_PER_SESSION_MAX} channels are in use, which is the most"
        choices.append(Choice(path, why_not))
    return tuple(choices)


def _why_not(path: Path, fastest: int, only_rdma: bool) -> str:
    local = path.local
    if local is not None and not local.up:
        return f"interface {local.name} is down"
    if only_rdma and not path.rdma:
        return "others have RDMA"
    if _speed(path) < _SPEED_SHARE_MIN * fastest:
        taken = "" if path.speed_bits_s else "taken for "
        return f"slower ({taken}{speed_text(_speed(path))}) than others ({speed_text(fastest)})"
    return ""


def _speed(path: Path) -> int:
    return path.speed_bits_s or limits.LINK_SPEED_ASSUMED_BITS_S


def speed_text(bits_s: int) -> str:
    """Return a speed as people write it: 25 Gbit/s, 100 Mbit/s."""
    return f"{bits_s / 1e9:g} Gbit/s" if bits_s >= 1e9 else f"{bits_s / 1e6:g} Mbit/s"


def _pairs(locals_: Sequence[Interface], remotes: Sequence[Remote]) -> Iterable[Path]:
    """Pair the interfaces of both ends, network by network."""
    networks: dict[object, list[Remote]] = {}
    for remote in remotes:
        networks.setdefault(_network_of(remote, locals_), []).append(remote)
    for network, there in networks.items():
        here = [local for local in locals_ if local.address.network == network]
        if not here:
            yield from (Path(remote) for remote in there)
            continue
        # An interface with several addresses in one network is one interface.
        here = list({local.name: local for local in sorted(here, key=_by_speed, reverse=True)}.values())
        there = sorted(there, key=_by_speed, reverse=True)
        for index in range(max(len(here), len(there))):
            yield Path(there[index % len(there)], here[index % len(here)], ambiguous=len(here) > 1)


def _network_of(remote: Remote, locals_: Sequence[Interface]) -> object:
    """Return this machine's narrowest network that has the address, or None if no network has it."""
    try:
        address = ip_address(remote.address)
    except ValueError:
        # A Unix socket has no network.
        return None
    networks = {local.address.network for local in locals_ if address in local.address.network}
    return max(networks, key=lambda network: network.prefixlen, default=None)


def _by_speed(end: Interface | Remote) -> int:
    """Return the key for pairing. It ignores lost links, because a lost link must not change the other pairs."""
    return end.speed_bits_s
