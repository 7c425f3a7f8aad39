"""Profile mount and exporter with py-spy while one workload runs."""

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Final

from benchmark.fio import FioWorkload, measure
from benchmark.subjects import Subject

RATE_HZ: Final = 250
TOP: Final = 25


def profile(subject: Subject, workload: FioWorkload, runtime_s: float, folder: Path) -> None:
    """Print self and inclusive time by function. The raw stacks (for flame graphs) stay in `folder`."""
    recorders = {}
    for name, pid in subject.pids.items():
        raw = folder / f"{workload.name}-{name}.stacks"
        command = [
            str(Path(sys.executable).parent / "py-spy"),
            "record",
            "--pid",
            str(pid),
            "--format",
            "raw",
            "--rate",
            str(RATE_HZ),
            "--duration",
            f"{max(1, round(runtime_s))}",
            "--output",
            str(raw),
            "--nonblocking",
        ]
        recorders[name] = raw, subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    sample = measure(subject.path, workload, subject.pids, runtime_s + 1)
    print(
        f"{subject.name} {workload.name}: {sample.rate:.0f} {workload.unit} under the profiler, "
        f"CPU us/op {sample.cpu_us_per_op}"
    )
    for name, (raw, recorder) in recorders.items():
        _, errors = recorder.communicate(timeout=60)
        if not raw.exists():
            raise RuntimeError(f"py-spy recorded nothing of the {name}: {errors}")
        print_profile(name, raw)


def print_profile(name: str, raw: Path) -> None:
    own: Counter[str] = Counter()
    inclusive: Counter[str] = Counter()
    for line in raw.read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        frames = stack.split(";")
        own[_function(frames[-1])] += int(count)
        for function in {_function(frame) for frame in frames}:
            inclusive[function] += int(count)
    total = own.total() or 1
    print(f"\n{name}: {total} samples at {RATE_HZ} Hz; stacks in {raw}")
    print(f"  {'self':>6} {'incl.':>6}  function")
    for name_of, hits in own.most_common(TOP):
        print(f"  {hits / total:>6.1%} {inclusive[name_of] / total:>6.1%}  {name_of}")


def _function(frame: str) -> str:
    """Remove the line from a frame, to count by function: `read (meshfs/x.py:12)` -> `read (meshfs/x.py)`."""
    return frame.rpartition(":")[0] + ")" if ":" in frame else frame
