"""Makes the part of a mount's status document about exporters and paths, which `meshctl paths` shows."""

from typing import Final

from meshfs.initiator.channel.channel import Channel
from meshfs.initiator.remote.exporter import RemoteExporter
from meshfs.initiator.remote.path_keeper import PathKeeper
from meshfs.initiator.remote.states import ExporterState, PathState
from meshfs.mesh_view import ReachView
from meshfs.telemetry.documents import ChannelStatus, PathStatus, RemoteExporterStatus

#: The states in which the next attempt to connect has a time.
_AWAY: Final = (ExporterState.DOWN, ExporterState.DRAINED)


def exporter_status(exporter: RemoteExporter, now: float) -> RemoteExporterStatus:
    """Return the status of one exporter. Its ``channels`` has an entry for every planned path, connected or not."""
    retry_at = exporter.retry_at
    channels = exporter.channels
    waiting = sorted(exporter.waiting, key=lambda call: call.since_s)
    away_s = None if exporter.away_since_s is None else now - exporter.away_since_s
    return {
        "node": exporter.node,
        "state": exporter.state.value,
        "why": exporter.why,
        "since_s": round(now - exporter.since_s, 3),
        "retry_in_s": None if exporter.state not in _AWAY else _left(retry_at, now),
        "away_s": None if away_s is None else round(away_s, 3),
        "failing_fast": away_s is not None and away_s >= exporter.io_timeout_s,
        "hung_disks": [
            {"disk": disk, "for_s": round(now - since_s, 3)} for disk, since_s in exporter.hung_disks.items()
        ],
        "failures": exporter.failures,
        "bad_signatures": exporter.ended.bad_signatures,
        "nonces_repeated": exporter.ended.nonces_repeated,
        "sent_bytes": exporter.ended.sent_bytes + sum(channel.sent_bytes for channel in channels),
        "received_bytes": exporter.ended.received_bytes + sum(channel.received_bytes for channel in channels),
        "channels": [_path_status(exporter, keeper, now) for keeper in exporter.keepers],
        "waiting": [
            {
                "disk": call.disk,
                "op": call.op,
                "for_s": round(now - call.since_s, 3),
                "left_s": round(max(0.0, call.ends_s - now), 3),
            }
            for call in waiting
        ],
    }


def reach_of(exporter: RemoteExporter) -> ReachView:
    """Return how this mount reaches the exporter. Paths that the plan keeps in reserve do not count as planned."""
    states = [_state(keeper) for keeper in exporter.keepers]
    return ReachView(
        exporter.node,
        exporter.state.value,
        paths=states.count(PathState.CONNECTED),
        planned=len(states) - states.count(PathState.IDLE),
        why=exporter.why,
    )


def _state(keeper: PathKeeper) -> PathState:
    """Return the state of a path. A path whose interface is down counts as down, because it is not idle by choice."""
    local = keeper.path.local
    return PathState.DOWN if local is not None and not local.up and keeper.channel is None else keeper.state


def _left(until: float | None, now: float) -> float | None:
    return None if until is None else round(max(0.0, until - now), 3)


def _path_status(exporter: RemoteExporter, keeper: PathKeeper, now: float) -> PathStatus:
    path, channel = keeper.path, keeper.channel
    local = path.local
    sent_bytes, received_bytes = keeper.ended.sent_bytes, keeper.ended.received_bytes
    if channel is not None:
        sent_bytes, received_bytes = sent_bytes + channel.sent_bytes, received_bytes + channel.received_bytes
    return {
        "transport": channel.transport.kind if channel else "unix" if path.remote.address.startswith("/") else "tcp",
        "interface": local.name if local else "",
        "local": channel.transport.local if channel else str(local.address.ip) if local else "",
        "remote": channel.transport.remote if channel else path.remote.address,
        "local_address": str(local.address.ip) if local else "",
        "remote_address": path.remote.address,
        "number": path.number,
        "speed_bits_s": path.speed_bits_s,
        "rdma": path.rdma,
        "state": _state(keeper).value,
        "selected": not keeper.choice.why_not,
        "why": keeper.choice.why_not or keeper.why,
        "retry_in_s": _left(keeper.retry_at, now) if keeper.state is PathState.DOWN else None,
        "failures": keeper.failures,
        "losses": keeper.losses,
        "bad_signatures": keeper.ended.bad_signatures,
        "sent_bytes": sent_bytes,
        "received_bytes": received_bytes,
        **(_channel_status(channel) if channel else _NO_CHANNEL),
    }


_NO_CHANNEL: ChannelStatus = {
    "dialect": "",
    "signing": "",
    "cipher": "",
    "outstanding": 0,
    "sent_bytes_s": 0,
    "received_bytes_s": 0,
    "measured_bytes_s": None,
}


def _channel_status(channel: Channel) -> ChannelStatus:
    settled = channel.connection.negotiated
    # An encrypted message has no signature, and a signed one is not encrypted.
    signing = settled.signing_algorithm.text if channel.signed else "none"
    cipher = settled.cipher.text if channel.sealed else "none"
    return {
        "dialect": settled.dialect.text if settled.dialect else "",
        "signing": signing,
        "cipher": cipher,
        "outstanding": channel.outstanding,
        "sent_bytes_s": round(channel.throughput.sent_bytes_s),
        "received_bytes_s": round(channel.throughput.received_bytes_s),
        # The rate is measured only if the session has a choice of channels.
        "measured_bytes_s": round(channel.load.rate_bytes_s) if channel.measuring and channel.load.measured else None,
    }
