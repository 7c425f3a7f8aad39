"""tools/bench fairness: run the experiments on their disks, and write a table, JSON and a plot."""

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

# The experiments that are meaningful on each kind of disk. A flow with fewer requests than a parallel disk serves at
# once never waits there, so shares are measured on the serial disk. A lone reader with depth 1 uses a serial disk
# fully, and its fair share beside three others is a quarter. So its latency is measured on the parallel disk.
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
    """Run all chosen experiments, and print each row when it is done. `folder` is for temporary files."""
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
    """Write fairness.txt, .json and .png to `out`, or the latter two to the given files. Return all paths."""
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
