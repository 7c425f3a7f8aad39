"""Frames with faults over real sockets, beside an honest session. A failure names the seeds."""

from support.attack_stage import ATTACKER, Stage


def test_fuzz_of_a_node_that_is_logged_in(secured: Stage, frames: int) -> None:
    """The node may use disk1 and the scratch share. The honest session would see it if the node wrote elsewhere."""
    secured.standing()
    with secured.measured() as usage:
        attack = secured.launch("fuzz", ATTACKER, source="127.0.0.4", count=frames, connections=4, seconds=3600)
        counts = attack.finish(3600)
        figures = secured.figures()
    row = secured.row(f"fuzz of {frames}", figures, usage, counts)
    assert counts["frames"] >= frames, counts
    assert counts.get("unanswered", 0) == 0, attack.text()
    # Some requests must succeed. Otherwise all were refused for one reason, and the rest was not tested.
    assert counts["status 0x00000000"] > frames / 20, counts
    secured.check(row)


def test_fuzz_of_strangers(stage: Stage, frames: int) -> None:
    stage.standing()
    with stage.measured() as usage:
        attack = stage.launch("stranger", "stranger", source="127.9.0.1", count=frames // 4, seconds=3600)
        counts = attack.finish(3600)
        figures = stage.figures()
    row = stage.row(f"strangers' fuzz of {frames // 4}", figures, usage, counts)
    assert counts.get("got in", 0) == 0, (counts, attack.text())
    assert counts.get("unanswered", 0) == 0, attack.text()
    stage.check(row)
