"""The symmetry check finds each kind of difference between the views of the nodes, and nothing else."""

from dataclasses import replace

import pytest

from meshctl.symmetry import MeshSeen, NodeRow, problems, rows
from meshfs.limits import VIEW_OLD_S
from meshfs.mesh_view import DiskView, MountView, ReachView, SeenView, ViewExchange

NODES = ("n1", "n2", "n3")
REACH = tuple(ReachView(node, "connected", 2, 2) for node in NODES)


def disks_of(node: str) -> tuple[DiskView, ...]:
    return tuple(DiskView(f"{node}-disk{number}", 1 << 30, f"instance of {number}") for number in range(3))


def mesh(**changed: object) -> MeshSeen:
    """Return a symmetric mesh. ``n1_n2`` replaces what exporter n1 has of n2, and None removes it."""
    exchanges = {}
    for exporter in NODES:
        disks = disks_of(exporter)
        views = []
        for node in NODES:
            seen = changed.get(f"{exporter}_{node}", SeenView(node, 3.0, MountView(disks, REACH)))
            if isinstance(seen, SeenView):
                views.append(seen)
        exchanges[exporter] = ViewExchange(disks, tuple(views))
    return MeshSeen(NODES, exchanges)


def seen(node: str = "n2", exporter: str = "n1", **changed: object) -> SeenView:
    view = MountView(disks_of(exporter), REACH)
    fields = {name: changed.pop(name) for name in ("age_s", "hidden") if name in changed}
    return replace(SeenView(node, 3.0, replace(view, **changed)), **fields)


def found(mesh: MeshSeen) -> list[tuple[str, str]]:
    return [(problem.code, problem.line) for problem in problems(mesh)]


def test_a_symmetric_mesh_has_no_problem() -> None:
    assert problems(mesh()) == []
    assert rows(mesh()) == [NodeRow(node, 9, 9, 3, 3, 6, 6, 3.0) for node in NODES]


def test_a_disk_that_the_config_hides_from_a_node_is_no_difference() -> None:
    hidden = mesh(n1_n2=seen(disks=disks_of("n1")[1:], hidden=("n1-disk0",)))
    assert problems(hidden) == []
    assert rows(hidden)[1] == NodeRow("n2", 8, 8, 3, 3, 6, 6, 3.0)


def test_a_mount_that_still_shows_a_disk_that_was_just_hidden_is_no_difference() -> None:
    assert problems(mesh(n1_n2=seen(hidden=("n1-disk0",)))) == []


def test_a_missing_disk() -> None:
    ((code, line),) = found(mesh(n1_n2=seen(disks=disks_of("n1")[1:])))
    assert (code, line) == ("check-missing", "node n2: it does not see disk n1-disk0 of n1")
    assert rows(mesh(n1_n2=seen(disks=disks_of("n1")[1:])))[1].disks == 8


def test_many_missing_disks_are_one_problem() -> None:
    disks = tuple(DiskView(f"disk{number}", 1, "") for number in range(8))
    exchange = ViewExchange(disks, (SeenView("n1", 0.0, MountView((), (ReachView("n1", "connected", 1, 1),))),))
    ((_, line),) = found(MeshSeen(["n1"], {"n1": exchange}))
    assert line == "node n1: it does not see the disks disk0, disk1, disk2, disk3, disk4 and 3 more of n1"


def test_a_disk_that_is_no_longer_offered() -> None:
    ((code, line),) = found(mesh(n1_n2=seen(disks=(*disks_of("n1"), DiskView("old", 1, "")))))
    assert code == "check-extra"
    assert "still sees disk old of n1" in line


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"size_bytes": 5}, "check-size", "disk n1-disk0 with 5 bytes, and n1 offers 1073741824 bytes"),
        ({"instance": "another"}, "check-instance", "another device as disk n1-disk0"),
    ],
)
def test_a_disk_that_differs(change: dict[str, object], code: str, words: str) -> None:
    first, *others = disks_of("n1")
    ((found_code, line),) = found(mesh(n1_n2=seen(disks=(replace(first, **change), *others))))
    assert found_code == code
    assert words in line


def test_what_an_exporter_does_not_know_of_a_missing_disk_is_not_compared() -> None:
    disks = (DiskView("disk0", 0, ""),)
    view = MountView((DiskView("disk0", 1 << 30, "known"),), (ReachView("n1", "connected", 1, 1),))
    assert problems(MeshSeen(["n1"], {"n1": ViewExchange(disks, (SeenView("n1", 0.0, view),))})) == []


def test_fewer_paths_than_planned() -> None:
    fewer = (ReachView("n1", "connected", 1, 2), *REACH[1:])
    ((code, line),) = found(mesh(n1_n2=seen(reach=fewer)))
    assert code == "check-paths"
    assert line.startswith("node n2: it reaches exporter n1 over 1 of 2 paths")
    assert (rows(mesh(n1_n2=seen(reach=fewer)))[1].paths, rows(mesh())[1].paths) == (5, 6)


def test_a_node_without_a_mount() -> None:
    without = mesh(n1_n3=None, n2_n3=None, n3_n3=None)
    ((code, line),) = found(without)
    assert code == "check-node"
    assert line.startswith("node n3: no mount of this node tells")
    assert rows(without)[2] == NodeRow("n3", 0, 9, 0, 3, 0, 0, None)
    assert problems(replace(without, nodes=("n1", "n2"))) == []


def test_a_node_that_does_not_reach_one_exporter_and_why() -> None:
    down = (ReachView("n1", "down", 0, 2, "no route to host"), *REACH[1:])
    ((code, line),) = found(mesh(n1_n2=None, n2_n2=seen(exporter="n2", reach=down)))
    assert code == "check-reach"
    assert line == "node n2: it does not reach exporter n1: there it is down (no route to host)"


def test_an_exporter_that_does_not_answer() -> None:
    whole = mesh()
    exchanges = {name: each for name, each in whole.exchanges.items() if name != "n1"}
    silent = MeshSeen(NODES, exchanges, {"n1": "no answer within 4 s"})
    assert found(silent) == [("check-exporter", "exporter n1: it does not answer: no answer within 4 s")]
    assert rows(silent)[0].exporters == 2


def test_without_an_exporter_that_answers_no_node_is_blamed() -> None:
    assert [code for code, _ in found(MeshSeen(NODES, {}, {"n1": "away"}))] == ["check-exporter"]


def test_a_mount_that_has_become_silent() -> None:
    ((code, line),) = found(mesh(n1_n2=seen(age_s=VIEW_OLD_S + 1)))
    assert code == "check-old"
    assert "nothing to exporter n1 for 76 s" in line


def test_each_mount_of_a_node_is_compared() -> None:
    whole = mesh()
    first = whole.exchanges["n1"]
    second = replace(first, views=(*first.views, seen(disks=())))
    both = replace(whole, exchanges={**whole.exchanges, "n1": second})
    assert [code for code, _ in found(both)] == ["check-missing"]
    assert rows(both)[1].disks == 6


def test_text_of_others_does_not_control_the_terminal() -> None:
    ((_, line),) = found(mesh(n1_n2=seen(disks=(*disks_of("n1"), DiskView("\x1b[2J", 1, "")))))
    assert "\x1b" not in line
