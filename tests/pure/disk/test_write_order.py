import random

from meshfs.disk.file.write_order import WriteOrder


def test_plain_writes_never_wait_for_each_other() -> None:
    order: WriteOrder[str] = WriteOrder()
    assert order.begin("a", 0, 100)
    assert order.begin("b", 50, 150)
    assert order.end("a") is None
    assert order.end("b") is None


def test_an_exclusive_write_waits_for_those_under_way() -> None:
    order: WriteOrder[str] = WriteOrder()
    assert order.begin("plain", 0, 512)
    assert order.begin("elsewhere", 512, 1024)
    assert not order.begin("exclusive", 0, 512, exclusive=True)
    assert order.end("elsewhere") == []
    assert order.end("plain") == ["exclusive"]


def test_later_writes_queue_behind_a_waiting_exclusive_one() -> None:
    order: WriteOrder[str] = WriteOrder()
    assert order.begin("first", 0, 512)
    assert not order.begin("exclusive", 0, 512, exclusive=True)
    assert not order.begin("behind", 100, 200)
    assert order.begin("elsewhere", 512, 1024)
    assert order.end("first") == ["exclusive"]
    assert order.end("exclusive") == ["behind"]
    assert order.end("elsewhere") is None
    assert order.end("behind") is None


def test_touching_ranges_do_not_overlap() -> None:
    order: WriteOrder[str] = WriteOrder()
    assert order.begin("left", 0, 512, exclusive=True)
    assert order.begin("right", 512, 1024, exclusive=True)


def test_waiting_writes_that_do_not_conflict_start_together_in_order() -> None:
    order: WriteOrder[int] = WriteOrder()
    assert order.begin(0, 0, 1000, exclusive=True)
    assert not any(order.begin(key, key * 10, key * 10 + 10) for key in range(1, 6))
    assert order.end(0) == [1, 2, 3, 4, 5]


def test_random_writes_keep_the_rule_and_all_end() -> None:
    for seed in range(200):
        _shake(random.Random(seed))


def _shake(generator: random.Random) -> None:
    order: WriteOrder[int] = WriteOrder()
    writes: dict[int, tuple[int, int, bool]] = {}
    running: list[int] = []
    started = 0

    def start(key: int) -> None:
        nonlocal started
        started += 1
        begin, stop, exclusive = writes[key]
        for other in running:
            other_begin, other_stop, other_exclusive = writes[other]
            overlap = begin < other_stop and other_begin < stop
            assert not (overlap and (exclusive or other_exclusive))
        running.append(key)

    for key in range(60):
        begin = generator.randrange(50)
        writes[key] = (begin, begin + generator.randrange(1, 20), generator.random() < 0.3)
        if order.begin(key, *writes[key][:2], exclusive=writes[key][2]):
            start(key)
        while running and generator.random() < 0.45:
            for ready in order.end(running.pop(generator.randrange(len(running)))) or ():
                start(ready)
    while running:
        for ready in order.end(running.pop(0)) or ():
            start(ready)
    assert len(order) == 0
    assert started == 60
