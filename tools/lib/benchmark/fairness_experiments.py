"""The experiments. Each runs its cases on a kind of disk and adds its findings. The marks are in fairness_cases."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from statistics import median
from typing import Final

from benchmark import fairness_cases as cases
from benchmark import fairness_rules as rules
from benchmark.fairness_attacks import attacked
from benchmark.fairness_cases import DEFAULT_LIMIT, MARKS, Limit, Load, Profile, Reader, Shares
from benchmark.fairness_load import Run, run
from benchmark.fairness_report import Findings, RecoveryResult, Row, at_least, at_most, line
from benchmark.fairness_rules import Flow, Unit
from benchmark.fairness_stage import Stage, Stages
from benchmark.fio import cpu_s

WARM_S: Final = 1.0
PLOT_STEP_S: Final = 0.5


@dataclass
class Show:
    """Holds the settings of all experiments: the stages, the lengths, the chosen cases, and the findings to add to."""

    stages: Stages
    profile: Profile
    quick: bool
    only: str
    findings: Findings
    say: Callable[[str], None]

    def wanted(self, name: str, quick: bool) -> bool:
        return (quick or not self.quick) and fnmatch(name, self.only)

    def add(self, *rows: Row) -> None:
        self.findings.rows += rows
        for row in rows:
            print(line(row), flush=True)

    def run(self, name: str, stage: Stage, loads: Sequence[Load], runtime_s: float, *, sampled: bool = False) -> Run:
        self.say(name)
        done = run(stage, loads, runtime_s, sampled=sampled)
        each = [asdict(load) | asdict(result) for load, result in zip(loads, done.results, strict=True)]
        self.findings.runs.append(
            {
                "name": name,
                "discipline": stage.discipline,
                "loads": each,
                "cores": done.cores,
                "machine": done.machine,
                "others": done.others,
                "depth": done.depth,
                "model": done.model,
            }
        )
        return done


def warm(stage: Stage) -> None:
    """Read and write every size, one after the other, so that a new exporter learns the costs of its disk."""
    for pattern in ("randread", "randwrite"):
        for block, depth in (("4k", 32), ("64k", 16), ("1m", 8)):
            run(stage, [Load("n2", pattern, block, depth)], WARM_S, ramp_s=0.0)


def cpu_note(*runs: Run) -> str:
    """Return a note with the highest use of the processors, marked CPU-BOUND if they may have been the bottleneck."""
    worst = max(runs, key=lambda each: each.machine)
    process = max(max(each.cores.values()) for each in runs)
    note = f"machine {worst.machine:.0%} busy ({worst.others:.0%} others), busiest process {process:.0%} of a core"
    return f"CPU-BOUND: {note}" if any(each.cpu_bound for each in runs) else note


# --- shares


def equal(show: Show, kind: str) -> None:
    for case in cases.EQUAL:
        name = f"{kind}/equal/{case.name}"
        if not show.wanted(name, case.quick):
            continue
        done, unit = _sampled(show, name, kind, case)
        flows = [load.flow for load in case.loads]
        lasting = rules.backlogged(done.samples, flows)
        got = rules.served(done.samples, unit)
        everybody = rules.jain([got.get(flow, 0.0) for flow in flows])
        note = f"backlogged: {_depths(case.loads, lasting)}; all three {everybody:.3f}; {_disk_note(done)}"
        _keep_shares(show, name, done, flows, unit)
        if len(lasting) < 2:
            show.add(Row(f"{name}/jain", everybody, note=f"fewer than two stay backlogged; {note}"))
            continue
        weights = {flow: case.weight(flow) for flow in lasting}
        by_fio = _by_fio(case.loads, done, unit)
        show.add(
            at_least(f"{name}/jain", rules.jain([got.get(flow, 0.0) for flow in lasting]), MARKS.jain_min, note),
            at_least(f"{name}/jain-by-fio", rules.jain([by_fio[flow] for flow in lasting]), MARKS.jain_min),
            at_least(f"{name}/lowest-5s", rules.lowest_window(done.samples, weights, unit), MARKS.window_min),
        )


def _disk_note(done: Run) -> str:
    return f"at most {done.depth} at the disk; {cpu_note(done)}"


def _depths(loads: Sequence[Load], flows: Sequence[Flow]) -> str:
    return "depth " + ", ".join(str(load.depth) for load in loads if load.flow in flows) if flows else "none"


def _sampled(show: Show, name: str, kind: str, case: Shares) -> tuple[Run, Unit]:
    stage = show.stages.get(kind)
    with stage.limited(case.limit) as unit:
        for node, weight in case.weights.items():
            stage.set_flows(node=node, weight=weight)
        try:
            return show.run(name, stage, case.loads, show.profile.shares_s, sampled=True), unit
        finally:
            stage.reset_flows()


def _by_fio(loads: Sequence[Load], done: Run, unit: Unit) -> dict[Flow, float]:
    """Return the amount that each flow got, by fio's own counts. Cost is computed with the exporter's cost model."""
    got: dict[Flow, float] = {}
    for load, result in zip(loads, done.results, strict=True):
        way = "write" if load.writes else "read"
        fixed_s, byte_s = done.model[f"{way}_fixed_us"] / 1e6, done.model[f"{way}_byte_ns"] / 1e9
        amounts = {
            "operations": result.operations,
            "bytes": result.bytes,
            "cost_s": result.operations * fixed_s + result.bytes * byte_s,
        }
        got[load.flow] = got.get(load.flow, 0.0) + amounts[unit]
    return got


def _keep_shares(show: Show, name: str, done: Run, flows: Sequence[Flow], unit: Unit) -> None:
    points = rules.shares_over_time(done.samples, flows, PLOT_STEP_S, unit)
    show.findings.shares[name] = {"flows": [" ".join(flow) for flow in flows], "unit": unit, "points": points}


def weighted(show: Show, kind: str) -> None:
    for case in cases.WEIGHTED:
        name = f"{kind}/weights-1-2-4/{case.name}"
        if not show.wanted(name, case.quick):
            continue
        done, unit = _sampled(show, name, kind, case)
        flows = [load.flow for load in case.loads]
        weights = {flow: case.weight(flow) for flow in flows}
        lasting = rules.backlogged(done.samples, flows)
        got = rules.served(done.samples, unit)
        shares = ":".join(f"{rules.share(got, [flow]) * sum(weights.values()):.2f}" for flow in flows)
        note = f"{shares}; backlogged: {len(lasting)} of {len(flows)}; {_disk_note(done)}"
        _keep_shares(show, name, done, flows, unit)
        show.add(at_most(f"{name}/error", rules.weight_error(got, weights), MARKS.weight_error_max, note))


def classes(show: Show, kind: str) -> None:
    for case in cases.CLASSES:
        name = f"{kind}/classes/{case.name}"
        if not show.wanted(name, case.quick):
            continue
        done, unit = _sampled(show, name, kind, case)
        flows = [load.flow for load in case.loads]
        got = rules.served(done.samples, unit)
        share = rules.share(got, [flow for flow in got if flow[1] == "system"])
        by_fio = _by_fio(case.loads, done, unit)
        fio_share = rules.share(by_fio, [flow for flow in by_fio if flow[1] == "system"])
        note = f"by fio {fio_share:.3f}; backlogged: {len(rules.backlogged(done.samples, flows))} of {len(flows)}"
        reached = abs(share - cases.FLOOR) <= MARKS.floor_error_max
        mark = f"{cases.FLOOR:g} +- {MARKS.floor_error_max:g}"
        _keep_shares(show, name, done, flows, unit)
        show.add(Row(f"{name}/system", share, "", mark, reached, f"{note}; {_disk_note(done)}"))


def alone(show: Show, kind: str) -> None:
    """Measure work conservation: each class alone, under fair and fifo in turn."""
    for io_class, load in cases.ALONE:
        name = f"{kind}/alone/{io_class}"
        if not show.wanted(name, True):
            continue
        rates: dict[str, list[float]] = {"fair": [], "fifo": []}
        runs = []
        for number in range(show.profile.alone_rounds):
            for discipline, found in rates.items():
                stage = show.stages.get(kind, discipline)
                runs.append(show.run(f"{name} {discipline} {number + 1}", stage, [load], show.profile.alone_s))
                found.append(runs[-1].results[0].iops)
        note = f"{median(rates['fair']):,.0f} of {median(rates['fifo']):,.0f} IOPS; {cpu_note(*runs)}"
        ratio = rules.median_ratio(rates["fair"], rates["fifo"])
        show.add(at_least(f"{name}/of-fifo", ratio, MARKS.alone_min, note))


# --- latency


def readers(show: Show, kind: str) -> None:
    """Measure readers alone and beside each flood, in rounds, so that measurements close in time are compared."""
    pinned = kind == "pinned"
    cases_of_kind = (*cases.READERS, *cases.ATTACKED) if pinned else cases.READERS
    # Pinned cases are short, and each tests another part of the exporter's processor use. So --quick runs all of them.
    chosen = [case for case in cases_of_kind if show.wanted(f"{kind}/reader/{case.name}", case.quick or pinned)]
    alone_ms: dict[tuple[Limit, Load], list[float]] = {_alone(kind, case): [] for case in chosen}
    beside_ms: dict[str, list[float]] = {case.name: [] for case in chosen}
    runs: dict[str, list[Run]] = {case.name: [] for case in chosen}

    def read(name: str, limit: Limit, loads: Sequence[Load], attacks: Sequence[str] = ()) -> Run:
        stage = show.stages.get(kind)
        with stage.limited(limit), attacked(stage, attacks):
            return show.run(f"{kind}/reader/{name}", stage, loads, show.profile.reader_s)

    for number in range(1, show.profile.reader_rounds + 1):
        for (limit, reader), found in alone_ms.items():
            done = read(f"alone at depth {reader.depth}, {number}", limit, [reader])
            found.append(done.results[0].p99_ms)
        for case in chosen:
            done = read(f"{case.name} {number}", case.limit, [case.reader, *case.flood], case.attacks)
            runs[case.name].append(done)
            beside_ms[case.name].append(done.results[0].p99_ms)
    for case in chosen:
        alone, beside = alone_ms[_alone(kind, case)], beside_ms[case.name]
        note = f"p99 {median(beside):.2f} ms, alone {median(alone):.2f} ms; {cpu_note(*runs[case.name])}"
        if pinned:
            note = f"{note}; {_pinned_note(runs[case.name])}"
        show.add(at_most(f"{kind}/reader/{case.name}/p99", rules.median_ratio(beside, alone), case.mark, note, "x"))


def _alone(kind: str, case: Reader) -> tuple[Limit, Load]:
    """Return the limit and the load of the reader alone, for the comparison. Only a limited disk has several limits."""
    return (case.limit if kind == "limit" else DEFAULT_LIMIT), case.reader


def _pinned_note(runs: Sequence[Run]) -> str:
    exporter = median(each.cores["exporter"] for each in runs)
    reader = median(each.results[0].iops for each in runs)
    flood = median(sum(result.iops for result in each.results[1:]) for each in runs)
    p50_ms = median(each.results[0].p50_ms for each in runs)
    text = f"p50 {p50_ms:.2f} ms; exporter {exporter:.0%} of its core, reader {reader:,.0f} IOPS"
    return f"{text}, floods of fio {flood:,.0f} IOPS"


# --- recovery


def recovery(show: Show, kind: str) -> None:
    wanted = [case for case in cases.RECOVERIES if show.wanted(f"{kind}/recovery/{case.name}", case.quick)]
    found: dict[str, list[Run]] = {case.name: [] for case in wanted}
    for number in range(show.profile.recovery_rounds):
        for case in wanted:
            stage = show.stages.get(kind, case.discipline)
            loads = [cases.RECOVERY_CLIENT, *(cases.RECOVERY_FLOOD if case.flooded else ())]
            if case.discipline == "fair":
                stage.set_flows(system_floor=case.floor)
            try:
                name = f"{kind}/recovery/{case.name} {number + 1}"
                found[case.name].append(show.run(name, stage, loads, show.profile.recovery_s))
            finally:
                if case.discipline == "fair":
                    stage.reset_flows()
    results = {name: _medians(kind, name, runs) for name, runs in found.items()}
    show.findings.recovery += results.values()
    if "baseline" in results:
        for case in wanted:
            show.add(_recovery_row(results[case.name], results["baseline"], cpu_note(*found[case.name])))


def _medians(kind: str, name: str, runs: Sequence[Run]) -> RecoveryResult:
    clients = [each.results[0] for each in runs]
    return RecoveryResult(
        kind,
        name,
        iops=median(it.iops for it in clients),
        mean_ms=median(it.mean_ms for it in clients),
        p99_ms=median(it.p99_ms for it in clients),
        recovery_bytes_per_s=median(
            sum(it.iops * it.bytes / max(it.operations, 1) for it in each.results[1:]) for each in runs
        ),
    )


def _recovery_row(result: RecoveryResult, base: RecoveryResult, note: str) -> Row:
    """Return the row of one setting. Only the default floor has a mark: clients must keep as much as with Ceph."""
    name, kept = f"{result.kind}/recovery/{result.name}/clients", result.iops / base.iops
    text = f"{result.iops:,.0f} IOPS, mean {result.mean_ms:.2f} ms, p99 {result.p99_ms:.2f} ms; {note}"
    if result.name == "fair-20":
        return at_least(name, kept, round(cases.CEPH[2].iops / cases.CEPH[0].iops, 3), text)
    return Row(name, kept, note=text)


# --- cost


def cost(show: Show) -> None:
    """Measure the exporter's processor time for a request of 4 KiB, under fair and fifo in turn."""
    for way, load in cases.COST_LOADS:
        name = f"fast/cost/{way}"
        if not show.wanted(name, True):
            continue
        spent: dict[str, list[float]] = {"fair": [], "fifo": []}
        for number in range(show.profile.cost_rounds):
            for discipline, found in spent.items():
                stage = show.stages.get("fast", discipline)
                before_s = cpu_s(stage.exporter_pid)
                before = _operations(stage)
                show.run(f"{name} {discipline} {number + 1}", stage, [load], show.profile.cost_s)
                found.append((cpu_s(stage.exporter_pid) - before_s) * 1e6 / (_operations(stage) - before))
        note = f"fair {median(spent['fair']):.1f}, fifo {median(spent['fifo']):.1f} us a request"
        difference = rules.median_difference(spent["fair"], spent["fifo"])
        show.add(at_most(f"{name}/more-than-fifo", difference, MARKS.cost_us_max, note, "us"))


def _operations(stage: Stage) -> int:
    flows = rules.sample_of(stage.flows(), 0.0).flows
    return sum(flow.operations for flow in flows.values())
