"""What each node may use of an exporter's connections, sessions and memory."""

import pytest

from meshfs import limits
from meshfs.buffers import Account, BufferPool
from meshfs.exporter.rules.memory_budget import MemoryBudget
from meshfs.exporter.rules.node_usage import UsageByNode, connections_per_node, sessions_per_node


@pytest.mark.parametrize(
    ("nodes", "descriptors", "expected"),
    [
        (1, 16384, 1024),
        (2, 16384, 512),
        (16, 16384, 64),
        (100, 16384, 64),
        (1000, 16384, 15),
        (2, 1024, 256),
        (64, 1024, 8),
        (0, 16384, 1024),
        (3, 100, 1),
    ],
)
def test_a_nodes_connections(nodes: int, descriptors: int, expected: int) -> None:
    assert connections_per_node(nodes, descriptors) == expected


@pytest.mark.parametrize("nodes", [1, 2, 7, 16, 17, 64, 247, 248])
def test_all_nodes_together_fit_into_the_descriptors(nodes: int) -> None:
    most = connections_per_node(nodes, limits.DESCRIPTORS_WANTED)
    assert most >= limits.CONNECTIONS_PER_NODE_MIN
    assert most * nodes <= limits.DESCRIPTORS_WANTED - limits.DESCRIPTORS_KEPT


def unexpected(why: str) -> None:
    raise AssertionError(why)


def test_what_is_kept_of_the_descriptors_is_enough_for_those_without_a_login() -> None:
    strangers = 3 * limits.CONNECTIONS_STRANGERS_MAX
    local = 3 * limits.CONNECTIONS_LOCAL_MAX
    assert strangers + local < limits.DESCRIPTORS_KEPT


def test_a_node_that_has_all_takes_nothing_from_another() -> None:
    usage = UsageByNode(limits.DESCRIPTORS_WANTED, ["n1", "n2"], unexpected)
    greedy = usage.of("n2")
    greedy.connections, greedy.sessions = usage.connections_max, usage.sessions_max
    assert "connections of at most 512" in usage.why_no_connection("n2")
    assert "sessions of at most 1024" in usage.why_no_session("n2", replaces=False, more=False)
    assert usage.why_no_session("n1", replaces=False, more=True) == ""


def test_a_session_that_ends_another_is_not_one_more() -> None:
    usage = UsageByNode(limits.DESCRIPTORS_WANTED, ["n1"], unexpected)
    usage.of("n1").sessions = usage.sessions_max
    assert usage.why_no_session("n1", replaces=True, more=False) == ""
    usage.of("n1").connections = usage.connections_max
    assert usage.why_no_session("n1", replaces=True, more=False) == ""
    assert usage.why_no_session("n1", replaces=True, more=True)


def test_another_config_changes_what_nodes_may_have_and_not_what_they_have() -> None:
    usage = UsageByNode(limits.DESCRIPTORS_WANTED, ["n1", "n2"], unexpected)
    usage.of("n1").sessions = 600
    usage.configure([f"n{n}" for n in range(100)])
    assert (usage.connections_max, usage.sessions_max) == (64, sessions_per_node(100))
    assert usage.of("n1").sessions == 600
    assert usage.why_no_session("n1", replaces=False, more=False)


# --- memory --------------------------------------------------------------------------------------


class Node:
    """A node that takes all that it may, in buffers of 256 KiB, and waits for more.

    Larger buffers lie in huge pages, which count as a whole.
    """

    def __init__(self, pool: BufferPool, budget: MemoryBudget) -> None:
        self.account = Account()
        self.buffers: list = []
        self.pool, self.budget = pool, budget

    def take_all(self) -> int:
        while self.budget.has_room(self.account):
            self.buffers.append(self.pool.acquire(256 << 10, self.account))
        self.budget.wait(self)
        return len(self.buffers)

    def give_back(self, count: int) -> None:
        for _ in range(count):
            self.buffers.pop().release()

    def room_again(self) -> None:
        self.take_all()


@pytest.fixture
def budget() -> MemoryBudget:
    budget = MemoryBudget(BufferPool(0))
    budget.max_bytes, budget.per_node_min_bytes = 16 << 20, 1 << 20
    return budget


def test_a_node_alone_has_half(budget: MemoryBudget) -> None:
    assert Node(budget._pool, budget).take_all() == 33


def test_however_many_took_all_they_could_the_next_has_its_minimum(budget: MemoryBudget) -> None:
    taken = [Node(budget._pool, budget).take_all() for _ in range(10)]
    assert taken[:4] == [33, 16, 8, 5]
    assert set(taken[4:]) == {5}


def test_memory_that_comes_back_is_shared_anew(budget: MemoryBudget) -> None:
    greedy, other = Node(budget._pool, budget), Node(budget._pool, budget)
    greedy.take_all()
    other.take_all()
    greedy.give_back(20)
    assert len(other.buffers) > 16
    for node in (greedy, other):
        assert node.account.used_bytes == len(node.buffers) * (256 << 10)
        node.budget.forget(node)
    other.give_back(len(other.buffers))
    greedy.give_back(len(greedy.buffers))
    assert budget._pool.used_bytes == 0
    assert not budget.wanted
    assert budget._pool.on_room is None


def test_what_is_charged_counts_as_what_is_acquired(budget: MemoryBudget) -> None:
    node = Node(budget._pool, budget)
    budget.charge(node.account, 60 << 20)
    assert node.take_all() == 0
    assert budget.wanted
    budget.charge(node.account, -(60 << 20))
    assert node.buffers
