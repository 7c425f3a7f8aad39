"""tools/bench fairness: every experiment on every disk; table, JSON and plot."""

import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Final

from benchmark import fairness_experiments as experiments
from benchmark.fairness_cases import DEFAULT_LIMIT, FULL, QUICK
from benchmark.fairness_plot import plot
from benchmark.fairness_report import HEAD, Findings, document, table
from benchmark.fairness_stage import Stages

# Which experiment says something on which disk. Whoever keeps fewer requests than a parallel disk takes at once never
# waits there: shares are for the serial one. A lone reader of depth 1 has all of a serial disk; beside three others
# its fair share is a quarter, so its latency is for the parallel one.
ON_DISKS: Final = {
    "limit": (
        experiments.equal,
        experiments.weighted,
        experiments.classes,
        experiments.readers,
        experiments.alone,
        experiments.recovery,
    ),
    "serial": (experiments.equal, experiments.weighted, experiments.classes),
    "pinned": (experiments.readers,),
    "slow": (experiments.classes, experiments.readers, experiments.alone, experiments.recovery),
}


def measure(folder: Path, *, quick: bool, only: str, say: Callable[[str], None]) -> Findings:
    """`folder` is scratch. Rows are printed as they come."""
    profile = QUICK if quick else FULL
    findings = Findings()
    print(HEAD, flush=True)

    def act(*parts: Callable[[experiments.Show], None]) -> None:
        with ExitStack() as stack:
            show = experiments.Show(Stages(stack, folder, experiments.warm), profile, quick, only, findings, say)
            for part in parts:
                part(show)

    for kind, on_disk in ON_DISKS.items():
        act(*(_on(kind, experiment) for experiment in on_disk))
    act(experiments.cost)
    return findings


def _on(kind: str, experiment: Callable[[experiments.Show, str], None]) -> Callable[[experiments.Show], None]:
    return lambda show: experiment(show, kind)


def write(findings: Findings, out: Path, *, quick: bool, json_file: Path | None, plot_file: Path | None) -> list[Path]:
    """fairness.txt, .json and .png in `out`, the latter two elsewhere when asked; where they are."""
    out.mkdir(parents=True, exist_ok=True)
    text, data, picture = (
        out / "fairness.txt",
        json_file or out / "fairness.json",
        plot_file or out / "fairness.png",
    )
    settings = {"quick": quick, "profile": asdict(QUICK if quick else FULL), "default_limit": asdict(DEFAULT_LIMIT)}
    text.write_text(table(findings))
    data.write_text(json.dumps(document(findings, settings), indent=1) + "\n")
    plot(findings, picture)
    return [text, data, picture]
