"""The policy of a disk: ranges, sums, changes at run time, and what remains of the changes over another config."""

import json
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshfs.model import FlowKey, IoClass
from meshfs.scheduler.decide.policy import (
    DISK_KEYS,
    FLOW_KEYS,
    RANGES,
    Change,
    DiskPolicy,
    FlowPolicy,
    Overrides,
    PolicyError,
    check,
)

NODES = ("n1", "n2", "n3")
APP, SYSTEM = IoClass.APP, IoClass.SYSTEM


def reserved(*app: float, system: tuple[float, ...] = (), floor: float = 0.2) -> DiskPolicy:
    """Return the reservations of n1, n2 and n3, by class."""
    flows: dict[FlowKey, FlowPolicy] = {}
    for io_class, shares in ((APP, app), (SYSTEM, system)):
        flows |= {
            FlowKey(node, io_class): FlowPolicy(reservation=share) for node, share in zip(NODES, shares, strict=False)
        }
    return DiskPolicy(system_floor=floor, flows=flows)


def applied(policy: DiskPolicy, wish: object) -> DiskPolicy:
    """Return the policy with one more change, checked as a whole."""
    return Overrides().add(Change.parse(wish)).policy(policy, NODES)


def changed(policy: DiskPolicy, **wish: object) -> DiskPolicy:
    return applied(policy, {key.rstrip("_"): value for key, value in wish.items()})


# --- what holds without anything said -----------------------------------------------------


def test_defaults() -> None:
    policy = DiskPolicy()
    check(policy, NODES)
    assert (policy.system_floor, policy.limit_iops, policy.limit_bytes_per_s) == (0.2, None, None)
    assert policy.of(FlowKey("n1", APP)) == FlowPolicy(weight=1, reservation=0, limit_iops=None, limit_bytes_per_s=None)
    assert policy.source() == policy.source(FlowKey("n1", APP)) == "config"
    assert (policy.share(APP), policy.share(SYSTEM)) == (0.8, 0.2)


def test_a_flow_has_its_nodes_weight_unless_it_has_a_policy_of_its_own() -> None:
    policy = DiskPolicy(weights={"n1": 4}, flows={FlowKey("n1", SYSTEM): FlowPolicy(weight=2)})
    assert policy.of(FlowKey("n1", APP)).weight == 4
    assert policy.of(FlowKey("n1", SYSTEM)).weight == 2
    assert policy.of(FlowKey("a stranger", APP)).weight == 1


# --- values -------------------------------------------------------------------------------

NOT_NUMBERS: list[Any] = [math.nan, math.inf, -math.inf, True, False, "1", "", [], [1], {}, (), 10**400, -(10**400)]


@pytest.mark.parametrize("key", [*DISK_KEYS, *FLOW_KEYS])
@pytest.mark.parametrize("value", NOT_NUMBERS, ids=str)
def test_what_is_no_number_is_refused(key: str, value: Any) -> None:
    with pytest.raises(PolicyError, match=f"{key}: found .*, expected a number from"):
        Change.parse({"node": "n1", key: value} if key in FLOW_KEYS else {key: value})
    at_disk = key in DISK_KEYS
    policy = (
        DiskPolicy(**{key: value}) if at_disk else DiskPolicy(flows={FlowKey("n1", APP): FlowPolicy(**{key: value})})
    )
    with pytest.raises(PolicyError, match=f"{key}: found .*, expected a number from"):
        check(policy, NODES)


@pytest.mark.parametrize("key", RANGES)
def test_ranges_include_their_bounds_and_nothing_more(key: str) -> None:
    low, high = RANGES[key]
    whose = {} if key == "system_floor" else {"node": "n1"}
    for value in (low, high):
        assert Change.parse({**whose, key: value}).values == {key: value}
    for value in (math.nextafter(low, -math.inf), math.nextafter(high, math.inf), -1):
        with pytest.raises(PolicyError, match=f"{key}: found .*, expected a number from"):
            Change.parse({**whose, key: value})


@pytest.mark.parametrize("weight", [0, 0.009, 1001, math.nan, True, "4", None])
def test_weights_of_nodes_are_checked(weight: Any) -> None:
    with pytest.raises(PolicyError, match="weight: found"):
        check(DiskPolicy(weights={"n1": weight}), NODES)


@pytest.mark.parametrize(
    ("policy", "text"),
    [
        (DiskPolicy(weights={"n9": 1}), "there is no node 'n9', expected one of n1, n2, n3"),
        (DiskPolicy(flows={FlowKey("n9", APP): FlowPolicy()}), "there is no node 'n9', expected one of n1, n2, n3"),
        (DiskPolicy(flows={FlowKey("n2", SYSTEM): FlowPolicy(weight=0)}), "n2/system: weight: found 0, expected"),
        (DiskPolicy(system_floor=0), "system_floor: found 0, expected a number from 0.01 to 0.9"),
        (DiskPolicy(limit_iops=0), "limit_iops: found 0, expected a number from 1 to"),
        (DiskPolicy(limit_bytes_per_s=4095), "limit_bytes_per_s: found 4095, expected a number from 4096 to"),
    ],
)
def test_a_policy_is_checked_as_a_whole(policy: DiskPolicy, text: str) -> None:
    with pytest.raises(PolicyError) as error:
        check(policy, NODES)
    assert text in str(error.value)


# --- sums ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "policy",
    [
        reserved(0.2, 0.3, 0.3),
        reserved(0.3, 0.5, 0.1, floor=0.1),
        reserved(0.7, 0.1, floor=0.2),
        reserved(system=(0.1, 0.1), floor=0.2),
        reserved(0.1, 0.0, 0.0, system=(0.3, 0.3, 0.3), floor=0.9),
    ],
)
def test_promises_may_add_up_to_all_there_is(policy: DiskPolicy) -> None:
    check(policy, NODES)


@pytest.mark.parametrize(
    ("policy", "text"),
    [
        (reserved(0.801), "class app add up to 0.801 (n1 0.801), expected at most 0.8 (1 - system_floor)"),
        (reserved(0.3, 0, 0.6), "class app add up to 0.9 (n1 0.3 + n3 0.6), expected at most 0.8"),
        (reserved(system=(0.1, 0.11)), "class system add up to 0.21 (n1 0.1 + n2 0.11), expected at most 0.2"),
        (reserved(0.2, floor=0.9), "expected at most 0.1 (1 - system_floor)"),
    ],
)
def test_promises_of_more_than_there_is_are_refused(policy: DiskPolicy, text: str) -> None:
    with pytest.raises(PolicyError) as error:
        check(policy, NODES)
    assert text in str(error.value)


@given(parts=st.lists(st.integers(1, 1000), min_size=1, max_size=60), floor=st.integers(1, 90))
def test_exact_partitions_fit_and_a_thousandth_more_does_not(parts: list[int], floor: int) -> None:
    """The shares sum up to exactly 1, whatever rounding does to the sum."""
    nodes = [f"n{index}" for index in range(len(parts))]
    there = 1 - floor / 100
    flows = {
        FlowKey(node, APP): FlowPolicy(reservation=there * part / sum(parts))
        for node, part in zip(nodes, parts, strict=True)
    }
    policy = DiskPolicy(system_floor=floor / 100, flows=flows)
    check(policy, nodes)
    flows[FlowKey("more", APP)] = FlowPolicy(reservation=0.001)
    with pytest.raises(PolicyError, match="reservations of class app"):
        check(policy, [*nodes, "more"])


# --- changes ------------------------------------------------------------------------------


def test_a_change_of_the_disk() -> None:
    policy = changed(DiskPolicy(), system_floor=0.3, limit_iops=100, limit_bytes_per_s=1e6)
    assert (policy.system_floor, policy.limit_iops, policy.limit_bytes_per_s) == (0.3, 100, 1e6)
    assert policy.source() == "run time"
    assert policy.source(FlowKey("n1", APP)) == "config"
    policy = changed(policy, limit_iops=None)
    assert (policy.limit_iops, policy.limit_bytes_per_s) == (None, 1e6)


def test_a_change_of_a_flow_keeps_what_it_does_not_name() -> None:
    base = DiskPolicy(weights={"n1": 4, "n2": 8}, flows={FlowKey("n1", APP): FlowPolicy(2, 0.5, 10, 4096)})
    policy = changed(base, node="n1", class_="app", limit_iops=20)
    assert policy.of(FlowKey("n1", APP)) == FlowPolicy(2, 0.5, 20, 4096)
    assert policy.of(FlowKey("n1", SYSTEM)) == FlowPolicy(4)
    policy = changed(policy, node="n1", class_="app", limit_bytes_per_s=None, weight=3)
    assert policy.of(FlowKey("n1", APP)) == FlowPolicy(3, 0.5, 20, None)
    policy = changed(policy, node="n2", class_="system", reservation=0.1)
    assert policy.of(FlowKey("n2", SYSTEM)) == FlowPolicy(8, 0.1)
    assert [policy.source(flow) for flow in [FlowKey("n1", APP), FlowKey("n1", SYSTEM), FlowKey("n2", SYSTEM)]] == [
        "run time",
        "config",
        "run time",
    ]
    assert policy.source() == "config"
    assert base.of(FlowKey("n1", APP)).limit_iops == 10, "the policy before is untouched"


@pytest.mark.parametrize("wish", [{"node": "n1", "weight": 5}, {"node": "n1", "class": None, "weight": 5}])
def test_without_a_class_both_are_meant(wish: dict[str, object]) -> None:
    policy = applied(DiskPolicy(), wish)
    assert policy.of(FlowKey("n1", APP)).weight == policy.of(FlowKey("n1", SYSTEM)).weight == 5
    assert policy.of(FlowKey("n2", APP)).weight == 1


def test_a_change_is_checked_with_what_is_there() -> None:
    base = reserved(0.5, 0.2, system=(0.1,))
    with pytest.raises(PolicyError, match=r"reservations of class app add up to 0\.9"):
        changed(base, node="n3", class_="app", reservation=0.2)
    with pytest.raises(PolicyError, match=r"reservations of class app .* at most 0\.6"):
        changed(base, system_floor=0.4)
    with pytest.raises(PolicyError, match="reservations of class system"):
        changed(base, system_floor=0.05)
    with pytest.raises(PolicyError, match="there is no node 'n9', expected one of n1, n2, n3"):
        changed(base, node="n9", weight=1)


BAD_WISHES: list[tuple[Any, str]] = [
    (None, "found null, expected an object"),
    ([], "found an empty array, expected an object"),
    ("weight=4", "found 'weight=4', expected an object"),
    (4, "found 4, expected an object"),
    (True, "found true, expected an object"),
    ({}, "nothing to set, expected one of system_floor, limit_iops, limit_bytes_per_s"),
    ({"node": "n1"}, "nothing to set, expected one of weight, reservation, limit_iops, limit_bytes_per_s"),
    ({"node": None, "class": None}, "nothing to set"),
    (
        {"limit_iop": 5},
        """'limit_iop': unknown key in this version, did you mean "limit_iops"? The keys here are: node,""",
    ),
    ({"limit_bps": 5}, "'limit_bps': unknown key"),
    ({"": 5}, "'': unknown key"),
    ({"a\nb\x1b[2J": 5}, r"'a\nb\x1b[2J': unknown key"),
    ({"x" * 100_000: 5}, "unknown key"),
    ({"version": 1, "system_floor": 0.2}, "'version': unknown key"),
    ({"weight": 5}, "weight: it is a flow's, expected with a node"),
    ({"reservation": 0.5}, "reservation: it is a flow's, expected with a node"),
    ({"node": None, "weight": 5}, "weight: it is a flow's, expected with a node"),
    ({"node": "n1", "system_floor": 0.5}, "system_floor: it is the disk's, expected without a node"),
    ({"class": "app", "limit_iops": 5}, "class: it is a flow's, expected with a node"),
    ({"node": "n1", "class": "APP", "weight": 5}, """class: found 'APP', expected "app" or "system" (or null"""),
    ({"node": "n1", "class": "", "weight": 5}, "class: found ''"),
    ({"node": "n1", "class": 0, "weight": 5}, "class: found 0"),
    ({"node": "n1", "class": ["app"], "weight": 5}, "class: found an array"),
    ({"node": 1, "weight": 5}, "node: found 1, expected the name of a node"),
    ({"node": ["n1"], "weight": 5}, "node: found an array, expected the name"),
    ({"node": True, "weight": 5}, "node: found true"),
    ({"node": "n1", "weight": None}, "weight: found null, expected a number from 0.01 to 1000"),
    ({"node": "n1", "reservation": None}, "reservation: found null, expected a number from 0 to 1"),
    ({"system_floor": None}, "system_floor: found null, expected a number from 0.01 to 0.9"),
]


@pytest.mark.parametrize(("wish", "text"), BAD_WISHES, ids=range(len(BAD_WISHES)))
def test_bad_wishes_are_named(wish: Any, text: str) -> None:
    with pytest.raises(PolicyError) as error:
        Change.parse(wish)
    assert text in str(error.value)
    assert len(str(error.value)) < 500
    assert str(error.value).isprintable()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
KEYS = st.sampled_from(["node", "class", *DISK_KEYS, *FLOW_KEYS]) | st.text(max_size=10)
ALMOST = JSON | st.sampled_from(["n1", "n9", "app", "system", 0.2, 1, 1000, 4096])


@given(wish=JSON | st.dictionaries(KEYS, ALMOST, max_size=4))
def test_any_json_is_a_valid_policy_or_one_clear_error(wish: object) -> None:
    refusal = ""
    try:
        policy = applied(DiskPolicy(), json.loads(json.dumps(wish)))
    except PolicyError as error:
        refusal = str(error) or "no reason"
    else:
        check(policy, NODES)
        assert policy.changed
    assert len(refusal) < 500
    assert refusal == "" or refusal.isprintable()
    assert refusal != "no reason"


# --- overrides ----------------------------------------------------------------------------


def overrides(*wishes: Mapping[str, object]) -> Overrides:
    made = Overrides()
    for wish in wishes:
        made = made.add(Change.parse(dict(wish)))
    return made


def app(node: str, **values: object) -> dict[str, object]:
    return {"node": node, "class": "app", **values}


def test_overrides_go_over_another_config() -> None:
    made = overrides(app("n1", limit_iops=50), {"system_floor": 0.3})
    before = made.policy(DiskPolicy(weights={"n1": 1}), NODES)
    after = made.policy(DiskPolicy(weights={"n1": 7}, limit_iops=900), NODES)
    assert before.of(FlowKey("n1", APP)) == FlowPolicy(1, limit_iops=50)
    assert after.of(FlowKey("n1", APP)) == FlowPolicy(7, limit_iops=50)
    assert (after.system_floor, after.limit_iops) == (0.3, 900)
    assert after.changed == {None, FlowKey("n1", APP)}
    assert Overrides().policy(DiskPolicy(), NODES) == DiskPolicy()


def test_the_last_value_counts_and_only_it_is_kept() -> None:
    made = Overrides()
    for weight in range(1, 1000):
        made = made.add(Change.parse({"node": "n1", "weight": weight}))
    assert made.policy(DiskPolicy(), NODES).of(FlowKey("n1", SYSTEM)).weight == 999
    assert len(made.values) == 2


def test_values_that_only_fit_together_are_set_together() -> None:
    base = reserved(0.5, floor=0.5)
    made = overrides({"system_floor": 0.3}, app("n2", reservation=0.2))
    assert made.policy(base, NODES).of(FlowKey("n2", APP)).reservation == 0.2
    assert made.fit(base, NODES) == (made, [])


def test_nothing_is_dropped_that_fits() -> None:
    made = overrides(app("n1", weight=3, limit_iops=7), {"limit_iops": None, "system_floor": 0.1})
    assert made.fit(DiskPolicy(limit_iops=5), NODES) == (made, [])


def test_the_newest_promise_that_no_longer_fits_goes_and_says_why() -> None:
    made = overrides(app("n1", reservation=0.3), app("n2", reservation=0.3, weight=2), app("n3", limit_iops=9))
    kept, reasons = made.fit(reserved(0, 0, 0.4), NODES)
    assert kept == overrides(app("n1", reservation=0.3), app("n2", weight=2), app("n3", limit_iops=9))
    (reason,) = reasons
    assert reason.startswith("n2/app reservation = 0.3 no longer holds: reservations of class app add up to 1")
    check(kept.policy(reserved(0, 0, 0.4), NODES), NODES)


def test_a_value_set_again_is_a_new_one() -> None:
    made = overrides(app("n1", reservation=0.3), app("n2", reservation=0.3), app("n1", reservation=0.3))
    kept, _ = made.fit(reserved(0, 0, 0.4), NODES)
    assert kept == overrides(app("n2", reservation=0.3))


def test_a_newer_promise_that_fits_stays_when_an_older_one_goes() -> None:
    made = overrides(app("n1", reservation=0.7), app("n2", reservation=0.1), {"system_floor": 0.15})
    kept, reasons = made.fit(reserved(0, 0, 0.2), NODES)
    assert kept == overrides(app("n2", reservation=0.1), {"system_floor": 0.15})
    assert [reason.split(" no longer")[0] for reason in reasons] == ["n1/app reservation = 0.7"]


def test_what_makes_room_for_an_older_promise_brings_it_back() -> None:
    made = overrides(app("n1", reservation=0.9), app("n2", reservation=0.5), {"system_floor": 0.1})
    kept, reasons = made.fit(reserved(0, 0, 0.35), NODES)
    assert kept == overrides(app("n2", reservation=0.5), {"system_floor": 0.1})
    assert len(reasons) == 1


def test_a_floor_that_leaves_too_little_goes() -> None:
    kept, reasons = overrides({"system_floor": 0.6}).fit(reserved(0.5), NODES)
    assert kept == Overrides()
    assert reasons == [
        "system_floor = 0.6 no longer holds: reservations of class app add up to 0.5 (n1 0.5), "
        "expected at most 0.4 (1 - system_floor)"
    ]


def test_values_of_a_node_that_is_gone_go() -> None:
    made = overrides(app("n1", weight=2), app("n3", limit_iops=5))
    kept, reasons = made.fit(DiskPolicy(), ("n1", "n2"))
    assert kept == overrides(app("n1", weight=2))
    assert reasons == ["n3/app limit_iops = 5.0 no longer holds: the node is gone"]


VALUES = {key: st.floats(*RANGES[key]) for key in RANGES}
WISHES = st.one_of(
    st.fixed_dictionaries({}, optional={key: VALUES[key] for key in DISK_KEYS}).filter(bool),
    st.builds(
        lambda node, io_class, values: {"node": node, "class": io_class, **values},
        st.sampled_from(NODES),
        st.sampled_from(["app", "system", None]),
        st.fixed_dictionaries({}, optional={key: VALUES[key] for key in FLOW_KEYS}).filter(bool),
    ),
)
SHARES = st.lists(st.integers(0, 26).map(lambda percent: percent / 100), max_size=3).map(tuple)


@given(wishes=st.lists(WISHES, max_size=8), app_shares=SHARES, gone=st.sampled_from([None, *NODES]))
def test_what_is_kept_is_valid_and_all_else_is_told(
    wishes: list[dict[str, object]], app_shares: tuple[float, ...], gone: str | None
) -> None:
    nodes = [node for node in NODES if node != gone]
    flows = {flow: wanted for flow, wanted in reserved(*app_shares).flows.items() if flow.node in nodes}
    base = DiskPolicy(flows=MappingProxyType(flows))
    made = overrides(*wishes)
    kept, reasons = made.fit(base, nodes)
    check(kept.policy(base, nodes), nodes)
    assert kept.values.items() <= made.values.items()
    assert len(kept.values) + len(reasons) == len(made.values)
    assert list(kept.values) == [key for key in made.values if key in kept.values], "in the order they were set"
    assert kept.fit(base, nodes) == (kept, [])
    for key in made.values.keys() - kept.values.keys():
        assert key[1] in ("system_floor", "reservation") or (key[0] and key[0][0] == gone)
