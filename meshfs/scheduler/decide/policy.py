"""The administrator's settings for a disk: weights, floor, reservations and limits. Pure: no clock, no I/O.

The terms are those of mClock (Gulati, Merchant, Varman: mClock, OSDI 2010, section 3). A flow has a reservation (the
least that it gets), a limit (the most that it gets), and a weight (its part of the rest). Here a reservation is a share
of the disk, because the throughput of a disk changes with its load. A limit is in requests or bytes per second.

Each of the two classes has a share of the disk: the system at least `system_floor`, the applications the rest. All
reservations must be possible at the same time. Therefore

    sum of the reservations of the system's flows          <= system_floor
    sum of the reservations of the applications' flows     <= 1 - system_floor

`Change` is one change at run time. `Overrides` are all changes so far. They take precedence over the config, also after
the config was reloaded.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final, Self

from meshfs import limits
from meshfs.errors import MeshfsError
from meshfs.model import FlowKey, IoClass
from meshfs.wording import describe, unknown_key

#: The values that were set at run time, by flow (None is the disk itself) and key.
Values = Mapping[tuple[FlowKey | None, str], float | None]

# In floats, shares may add up to a little more than they do in decimals: 0.1 + 0.2 is 0.30000000000000004.
_SUM_TOLERANCE: Final = 1e-9

# The range of each value, bounds included.
RANGES: Final[Mapping[str, tuple[float, float]]] = {
    "system_floor": (limits.SYSTEM_FLOOR_MIN, limits.SYSTEM_FLOOR_MAX),
    "weight": (limits.FLOW_WEIGHT_MIN, limits.FLOW_WEIGHT_MAX),
    "reservation": (0.0, 1.0),
    "limit_iops": (limits.LIMIT_IOPS_MIN, limits.LIMIT_IOPS_MAX),
    "limit_bytes_per_s": (limits.LIMIT_BYTES_PER_S_MIN, limits.LIMIT_BYTES_PER_S_MAX),
}
_LIMITS: Final = ("limit_iops", "limit_bytes_per_s")
DISK_KEYS: Final = ("system_floor", *_LIMITS)
FLOW_KEYS: Final = ("weight", "reservation", *_LIMITS)
_CHANGE_KEYS: Final = ("node", "class", "system_floor", "weight", "reservation", *_LIMITS)


class PolicyError(MeshfsError, ValueError):
    """A policy is not possible. The text names the wrong value, and the values that are allowed."""


@dataclass(frozen=True, slots=True)
class FlowPolicy:
    """Holds the settings of one flow. ``reservation`` is a share of the disk from 0 to 1. None means no limit."""

    weight: float = 1.0
    reservation: float = 0.0
    limit_iops: float | None = None
    limit_bytes_per_s: float | None = None


@dataclass(frozen=True)
class DiskPolicy:
    """Tells how one disk is shared.

    weights    the weight of each node, for both of its classes. A node without an entry has weight 1
    flows      the flows with a policy of their own. ``weights`` does not apply to such a flow
    changed    the flows that have values set at run time. None stands for the disk's own values
    """

    system_floor: float = limits.SYSTEM_FLOOR
    limit_iops: float | None = None
    limit_bytes_per_s: float | None = None
    weights: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    flows: Mapping[FlowKey, FlowPolicy] = field(default_factory=lambda: MappingProxyType({}))
    changed: frozenset[FlowKey | None] = frozenset()

    def of(self, flow: FlowKey) -> FlowPolicy:
        """Return the policy of a flow: its own policy, or else the weight of its node without a limit."""
        known = self.flows.get(flow)
        return known if known is not None else FlowPolicy(self.weights.get(flow.node, 1.0))

    def source(self, flow: FlowKey | None = None) -> str:
        """Return the source of a flow's values: "config" or "run time". None stands for the disk itself."""
        return "run time" if flow in self.changed else "config"

    def share(self, io_class: IoClass) -> float:
        """Return the share of the disk that the class has when both classes want everything."""
        return self.system_floor if io_class is IoClass.SYSTEM else 1.0 - self.system_floor


def in_range(key: str, value: object) -> float:
    """Return the value as a number. Raises PolicyError if it is no number, or out of the key's range."""
    low, high = RANGES[key]
    # The comparison refuses NaN and infinities as well.
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise PolicyError(f"{key}: found {_shown(value)}, expected a number from {low:g} to {high:g}")
    return float(value)


def check(policy: DiskPolicy, nodes: Collection[str]) -> None:
    """Raise PolicyError unless each value is in its range, each node is known, and all promises fit together."""
    _check_values(policy, DISK_KEYS, "")
    for node, weight in policy.weights.items():
        _check_node(node, nodes)
        in_range("weight", weight)
    for flow, wanted in policy.flows.items():
        _check_node(flow.node, nodes)
        _check_values(wanted, FLOW_KEYS, f"{flow}: ")
    _check_sums(policy)


def _check_values(holder: DiskPolicy | FlowPolicy, keys: Iterable[str], where: str) -> None:
    for key in keys:
        value = getattr(holder, key)
        if value is None and key in _LIMITS:
            continue
        try:
            in_range(key, value)
        except PolicyError as error:
            raise PolicyError(f"{where}{error}") from None


def _check_sums(policy: DiskPolicy) -> None:
    for io_class in IoClass:
        promised = {flow: wanted.reservation for flow, wanted in policy.flows.items() if flow.io_class is io_class}
        total, there = sum(promised.values()), policy.share(io_class)
        if total > there + _SUM_TOLERANCE:
            parts = " + ".join(f"{flow.node} {value:.6g}" for flow, value in promised.items() if value)
            most = "system_floor" if io_class is IoClass.SYSTEM else "1 - system_floor"
            raise PolicyError(
                f"reservations of class {io_class} add up to {total:.6g} ({_short(parts)}), "
                f"expected at most {there:.6g} ({most})"
            )


def _check_node(name: str, nodes: Collection[str]) -> None:
    if name not in nodes:
        raise PolicyError(f"there is no node {_shown(name)}, expected one of {', '.join(sorted(nodes))}")


# --- changes at run time ----------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """Holds new values for a disk itself (``node`` is None), or for the flows of a node.

    If ``io_class`` is None, both flows of the node get them. ``values`` has at least one key of DISK_KEYS or FLOW_KEYS.
    The value None removes a limit.
    """

    node: str | None
    io_class: IoClass | None
    values: Mapping[str, float | None]

    @classmethod
    def parse(cls, wish: object) -> Self:
        """Make a change from a JSON object such as {"node": "n2", "class": "app", "weight": 4}. Raises PolicyError."""
        if not isinstance(wish, dict):
            raise PolicyError(f"found {_shown(wish)}, expected an object of what to set")
        for key in wish:
            if key not in _CHANGE_KEYS:
                raise PolicyError(f"{_shown(key)}: {unknown_key(str(key)[:200], _CHANGE_KEYS)}")
        node, io_class = _node_of(wish), _class_of(wish)
        values = {key: _value_of(key, value) for key, value in wish.items() if key not in ("node", "class")}
        for key in values:
            if key not in (DISK_KEYS if node is None else FLOW_KEYS):
                whose = "a flow's, expected with a node" if node is None else "the disk's, expected without a node"
                raise PolicyError(f"{key}: it is {whose}")
        if not values:
            raise PolicyError(f"nothing to set, expected one of {', '.join(DISK_KEYS if node is None else FLOW_KEYS)}")
        return cls(node, io_class, MappingProxyType(values))

    def flows(self) -> tuple[FlowKey | None, ...]:
        """Return the flows whose values change. None stands for the disk itself."""
        if self.node is None:
            return (None,)
        return tuple(FlowKey(self.node, each) for each in IoClass if self.io_class in (None, each))


def _node_of(wish: Mapping[str, object]) -> str | None:
    node = wish.get("node")
    if node is not None and not isinstance(node, str):
        raise PolicyError(f"node: found {_shown(node)}, expected the name of a node")
    return node


def _class_of(wish: Mapping[str, object]) -> IoClass | None:
    found = wish.get("class")
    if found is None:
        return None
    if found not in list(IoClass):
        raise PolicyError(f'class: found {_shown(found)}, expected "app" or "system" (or null for both)')
    if wish.get("node") is None:
        raise PolicyError("class: it is a flow's, expected with a node")
    return IoClass(str(found))


def _value_of(key: str, value: object) -> float | None:
    if value is None and key in _LIMITS:
        return None
    return in_range(key, value)


@dataclass(frozen=True)
class Overrides:
    """Holds all values set at run time for one disk, in the order in which they were last set.

    A value replaces the earlier value of the same flow and key. So the size is bounded by the number of possible flows,
    however often values are set.
    """

    values: Values = field(default_factory=lambda: MappingProxyType({}))

    def add(self, change: Change) -> Self:
        values = dict(self.values)
        for flow in change.flows():
            for key, value in change.values.items():
                values.pop((flow, key), None)
                values[flow, key] = value
        return replace(self, values=MappingProxyType(values))

    def policy(self, base: DiskPolicy, nodes: Collection[str]) -> DiskPolicy:
        """Return the config's policy ``base`` with these values on top. Raises PolicyError if that is not possible."""
        policy = self._over(base)
        check(policy, nodes)
        return policy

    def fit(self, base: DiskPolicy, nodes: Collection[str]) -> tuple[Self, list[str]]:
        """Return the values that are possible with the ``base`` of a new config, and the reasons against the rest.

        ``base`` must be valid by itself. Values of nodes that no longer exist are dropped. If reservations and floors
        together exceed the disk, the newest values are dropped first. At the end, each dropped value that is possible
        with the kept ones is restored.
        """
        kept = {key: value for key, value in self.values.items() if key[0] is None or key[0].node in nodes}
        dropped = {key: "the node is gone" for key in self.values if key not in kept}
        late: list[tuple[FlowKey | None, str]] = []

        def why_not(key: tuple[FlowKey | None, str]) -> str:
            return _why_not({**kept, key: self.values[key]}, base, nodes)

        for key in reversed([key for key in kept if key[1] in ("system_floor", "reservation")]):
            if not _why_not(kept, base, nodes):
                break
            late.append(key)
            del kept[key]
        # A restored value (a smaller reservation, another floor) may make room for another dropped value.
        while back := next((key for key in reversed(late) if not why_not(key)), None):
            late.remove(back)
            kept[back] = self.values[back]
        dropped |= {key: why_not(key) for key in reversed(late)}
        ordered = {key: value for key, value in self.values.items() if key in kept}
        reasons = [f"{_place(key)} = {_shown(self.values[key])} no longer holds: {why}" for key, why in dropped.items()]
        return replace(self, values=MappingProxyType(ordered)), reasons

    def _over(self, base: DiskPolicy) -> DiskPolicy:
        # `Change.parse` has checked each key and the type of its value, which mypy cannot follow into `replace`.
        own = {key: value for (flow, key), value in self.values.items() if flow is None}
        flows = dict(base.flows)
        for (flow, key), value in self.values.items():
            if flow is not None:
                flows[flow] = replace(flows.get(flow, base.of(flow)), **{key: value})  # type: ignore[arg-type]
        changed = base.changed | {flow for flow, _ in self.values}
        return replace(base, flows=MappingProxyType(flows), changed=changed, **own)  # type: ignore[arg-type]


def _why_not(values: Values, base: DiskPolicy, nodes: Collection[str]) -> str:
    try:
        Overrides(values).policy(base, nodes)
    except PolicyError as error:
        return str(error)
    return ""


def _place(key: tuple[FlowKey | None, str]) -> str:
    flow, name = key
    return name if flow is None else f"{flow} {name}"


def _shown(value: object) -> str:
    return "null" if value is None else describe(value)


def _short(text: str) -> str:
    return text if len(text) <= 200 else text[:197] + "..."
