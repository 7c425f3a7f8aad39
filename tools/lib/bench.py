"""tools/bench compares meshfs with nbdkit and nbdfuse, and with nbdkit and qemu-storage-daemon's FUSE export.

All subjects serve the same kind of disk over loopback TCP and stay up. fio (libaio, direct=1) measures one after the
other, in rounds, so that measurements close in time are compared. The table has the medians, the median of the rounds'
ratios to each peer, and the CPU time per operation of the mounting and of the serving process.

    tools/bench                                  all rows: both disks, every security
    tools/bench --quick --only 'loop/*4k*'       some rows, with shorter measurements
    tools/bench --profile --only loop/randread-4k-qd16 --security sign
    tools/bench scale                            16 nodes of 26 disks
    tools/bench fairness                         the scheduler: shares, latency beside floods, recovery, cost
    tools/bench fairness --quick --only 'slow/recovery/*'
    tools/bench multichannel                     several interfaces, several channels over loopback, pulled links
"""

import argparse
import json
import sys
import time
from contextlib import ExitStack
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Final

from benchmark import fairness, fairness_report, fio, multichannel, report
from benchmark.profile import profile
from benchmark.scale import scale
from benchmark.subjects import DISKS, Subject, scratch_folder, start
from meshfs.limits import MIB
from meshfs.program.command import run_command
from meshlab.cluster.cluster import terminated_as_interrupt

ROOT: Final = Path(__file__).resolve().parents[2]


def main() -> int:
    return run_command("tools/bench", _main)


def _main() -> int:
    options = _parse()
    try:
        with terminated_as_interrupt():
            _run(options)
    except KeyboardInterrupt:
        _say("interrupted")
        return 130
    return 0


def _run(options: argparse.Namespace) -> None:
    if options.what == "scale":
        with scratch_folder("meshfs-scale-") as folder:
            result = scale(folder)
        print(json.dumps(result, indent=2))
        _write(options.json, {"machine": report.machine(), "scale": result})
    elif options.what == "fairness":
        _fairness(options)
    elif options.what == "multichannel":
        with scratch_folder("meshfs-multichannel-") as folder:
            findings = multichannel.measure(folder, options.rounds, options.seconds, options.only, _say)
        _write(options.json, {"machine": report.machine(), **findings})
    elif options.profile:
        _profile(options)
    else:
        _compare(options)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tools/bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="?", choices=["compare", "scale", "fairness", "multichannel"], default="compare")
    parser.add_argument(
        "--quick", action="store_true", help="run fewer and shorter rounds, and fewer cases of fairness"
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="measure each row N times")
    parser.add_argument("--seconds", type=float, metavar="S", help="measure for S seconds at a time")
    parser.add_argument("--only", default="*", metavar="PATTERN", help="run the rows with such names, e.g. 'loop/*'")
    parser.add_argument(
        "--security", default="none,sign,encrypt", metavar="LIST", help="kinds of security of meshfs (default: all)"
    )
    parser.add_argument("--peers", default="nbdfuse,qsd", metavar="LIST", help="peers to compare with; empty for none")
    parser.add_argument("--size-mib", type=int, default=512, help="size of each disk")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples to FILE")
    parser.add_argument("--profile", action="store_true", help="show where the time of the chosen rows goes (py-spy)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="fairness: write the picture (PNG) to FILE")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="fairness: write table, JSON and picture there (.cache/fairness/TIME)",
    )
    options = parser.parse_args()
    options.rounds = options.rounds or (3 if options.quick else 5)
    options.seconds = options.seconds or (1.5 if options.quick else 4.0)
    return options


def _names(options: argparse.Namespace, *, peers: bool = True) -> list[str]:
    chosen = [f"meshfs-{security}" for security in options.security.split(",") if security]
    return chosen + ([peer for peer in options.peers.split(",") if peer] if peers else [])


def _workloads(options: argparse.Namespace, disk: str) -> list[fio.FioWorkload]:
    return [each for each in fio.WORKLOADS if fnmatch(f"{disk}/{each.name}", options.only)]


def _compare(options: argparse.Namespace) -> None:
    rows: list[report.WorkloadRow] = []
    with scratch_folder("meshfs-bench-") as folder:
        for disk, make in DISKS.items():
            workloads = _workloads(options, disk)
            if not workloads:
                continue
            with ExitStack() as stack:
                _say(f"{disk}: starting {', '.join(_names(options))}")
                subjects = start(stack, folder, make, _names(options), options.size_mib * MIB)
                for workload in workloads:
                    rows.append(_row(disk, workload, subjects, options))
                    print(report.table(rows[-1]) + "\n", flush=True)
    settings = {"rounds": options.rounds, "seconds": options.seconds, "size_mib": options.size_mib}
    _write(options.json, report.document(rows, settings))


def _row(
    disk: str, workload: fio.FioWorkload, subjects: list[Subject], options: argparse.Namespace
) -> report.WorkloadRow:
    row = report.WorkloadRow(disk, workload, {subject.name: [] for subject in subjects})
    for subject in subjects:
        _warm(subject)
    for number in range(options.rounds):
        _say(f"{row.name}: round {number + 1} of {options.rounds}")
        for subject in subjects:
            row.samples[subject.name].append(fio.measure(subject.path, workload, subject.pids, options.seconds))
    return row


def _warm(subject: Subject) -> None:
    """Read the whole disk once, so that each subject with a cache has filled it before the first measurement."""
    fio.run(subject.path, fio.FioWorkload("warm", "read", "1m", 4), runtime_s=1.0)


def _profile(options: argparse.Namespace) -> None:
    kept = ROOT / ".cache/profile" / time.strftime("%Y%m%d-%H%M%S")
    kept.mkdir(parents=True)
    with scratch_folder("meshfs-bench-") as folder:
        for disk, make in DISKS.items():
            workloads = _workloads(options, disk)
            with ExitStack() as stack:
                names = _names(options, peers=False) if workloads else []
                for subject in start(stack, folder, make, names, options.size_mib * MIB):
                    for workload in workloads:
                        profile(subject, workload, options.seconds, kept)


def _fairness(options: argparse.Namespace) -> None:
    out = options.out or ROOT / ".cache/fairness" / time.strftime("%Y%m%d-%H%M%S")
    with scratch_folder("meshfs-fairness-") as folder:
        findings = fairness.measure(folder, quick=options.quick, only=options.only, say=_say)
    print("\n" + fairness_report.table(findings), flush=True)
    written = fairness.write(findings, out, quick=options.quick, json_file=options.json, plot_file=options.plot)
    _say(f"wrote {', '.join(map(str, written))}")


def _write(path: Path | None, content: dict[str, Any]) -> None:
    if path is not None:
        path.write_text(json.dumps(content, indent=1) + "\n")
        _say(f"wrote {path}")


def _say(text: str) -> None:
    print(f"tools/bench: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
