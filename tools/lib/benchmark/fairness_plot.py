"""Plot the findings as one picture: recovery compared with Ceph, a reader beside floods, and shares over time."""

from pathlib import Path
from typing import Any, Final

import matplotlib

matplotlib.use("Agg")  # writes to a file and needs no display
from matplotlib import pyplot

from benchmark.fairness_cases import ATTACKED, CEPH, FLOOR, READERS
from benchmark.fairness_report import Findings

SIZE_INCHES: Final = (15, 10)
DPI: Final = 110
# The width of one group of bars; the distance between groups is 1.
GROUP_WIDTH: Final = 0.8
LABELS: Final = {
    "baseline": "no recovery",
    "fifo": "uncontrolled (ours: FIFO)",
    "uncontrolled": "uncontrolled (ours: FIFO)",
    "mclock-50": "mClock, 50 % reserved",
    "fair-20": "fair, floor 20 %",
    "fair-40": "fair, floor 40 %",
    "fair-50": "fair, floor 50 %",
    "fair-70": "fair, floor 70 %",
}
UNITS: Final = {"cost_s": "the cost", "operations": "the requests", "bytes": "the bytes"}
# The kinds of shares to draw, the most useful first: by class, by weight, and equal ones.
SHARES_DRAWN: Final = ("/classes/", "/weights-1-2-4/", "/equal/")


def plot(findings: Findings, target: Path) -> None:
    figure, axes = pyplot.subplots(2, 3, figsize=SIZE_INCHES, layout="constrained")
    try:
        _recovery(axes[0][0], findings, "iops", "clients' IOPS, of those without recovery")
        _recovery(axes[0][1], findings, "mean_ms", "clients' mean latency, of that without recovery")
        axes[0][1].set_yscale("log")
        _readers(axes[0][2], findings)
        for axis, kind in zip(axes[1], SHARES_DRAWN, strict=True):
            _shares(axis, findings, kind)
        figure.savefig(target, dpi=DPI)
    finally:
        pyplot.close(figure)


def _recovery(axis: Any, findings: Findings, key: str, title: str) -> None:
    """Draw one group of bars per disk and one for Ceph. Each bar is relative to the group's first, the baseline."""
    groups = {
        kind: [(each.name, getattr(each, key)) for each in findings.recovery if each.kind == kind]
        for kind in dict.fromkeys(each.kind for each in findings.recovery)
    }
    groups["Ceph (NVMe)"] = [(each.name, getattr(each, key)) for each in CEPH]
    axis.set_title(title)
    drawn = {kind: bars for kind, bars in groups.items() if bars and bars[0][0] == "baseline"}
    colours: dict[str, Any] = {}
    for place, bars in enumerate(drawn.values()):
        width = GROUP_WIDTH / len(bars)
        for number, (name, value) in enumerate(bars):
            label = LABELS[name]
            ratio = value / bars[0][1]
            known = label in colours
            bar = axis.bar(
                place - GROUP_WIDTH / 2 + (number + 0.5) * width,
                ratio,
                width,
                color=colours.get(label),
                label=None if known else label,
            )
            colours.setdefault(label, bar[0].get_facecolor())
            axis.bar_label(bar, fmt="%.2f", fontsize=7)
    axis.set_xticks(range(len(drawn)), list(drawn))
    if drawn:
        axis.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.06), ncols=3)


def _readers(axis: Any, findings: Findings) -> None:
    axis.set_title("4 KiB reader's p99 beside a flood, of its p99 alone")
    marks = {reader.name: reader.mark for reader in (*READERS, *ATTACKED)}
    found = [row for row in findings.rows if "/reader/" in row.name]
    for place, row in enumerate(found):
        kind, _, name, _ = row.name.split("/")
        bar = axis.barh(place, row.measured, color="tab:blue" if kind == "limit" else "tab:orange")
        axis.bar_label(bar, fmt="%.2f", fontsize=7)
        axis.plot([marks[name]] * 2, [place - 0.4, place + 0.4], color="black")
    axis.set_yticks(range(len(found)), [row.name.replace("/reader", "").removesuffix("/p99") for row in found])
    axis.tick_params(axis="y", labelsize=7)
    axis.set_xlabel("black: the mark")
    axis.invert_yaxis()


def _shares(axis: Any, findings: Findings, kind: str) -> None:
    name = next((name for name in findings.shares if kind in name), None)
    axis.set_title(name or f"nothing run of {kind.strip('/')}")
    if name is None:
        return
    shares = findings.shares[name]
    times = [time_s for time_s, _ in shares["points"]]
    for number, flow in enumerate(shares["flows"]):
        axis.plot(times, [parts[number] for _, parts in shares["points"]], label=flow)
    if kind == "/classes/":
        axis.axhline(FLOOR, color="black", linewidth=0.8, linestyle="--")
    axis.set_ylim(0, 1)
    axis.set_xlabel("s")
    axis.set_ylabel(f"part of {UNITS[shares['unit']]} served")
    axis.legend(fontsize=7)
