"""Floods that fio cannot make: a node that is logged in and sends requests that cost the exporter processor time."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Final

from benchmark.fairness_cases import ATTACKER
from benchmark.fairness_stage import OWNER, Stage

DEPTH: Final = 64
# This is longer than any run; the stage ends the attacks.
SECONDS: Final = 600
STOP_TIMEOUT_S: Final = 10.0


@contextmanager
def attacked(stage: Stage, kinds: Sequence[str]) -> Iterator[None]:
    """Run one process for each kind of meshlab.attack, all as one node. They flood when the block begins.

    Raises RuntimeError with the output of a process that does not begin, or that ends early.
    """
    with ExitStack() as stack:
        running = [(kind, _start(stack, stage, kind)) for kind in kinds]
        for kind, process in running:
            assert process.stdout is not None
            if process.stdout.readline().strip() != "ready":
                raise RuntimeError(f"the flood of {kind} does not begin: {process.communicate()[1][-1000:]}")
        yield
        for kind, process in running:
            if process.poll() is not None:
                raise RuntimeError(f"the flood of {kind} ended early: {process.communicate()}")


def _start(stack: ExitStack, stage: Stage, kind: str) -> "subprocess.Popen[str]":
    prefix = [] if stage.pins is None else stage.pins.prefix(first=False)
    what = [sys.executable, "-m", "meshlab.attack", kind, "--config", str(stage.cluster.config)]
    what += ["--node", ATTACKER, "--to", OWNER, "--disk", "disk0", "--depth", str(DEPTH), "--seconds", str(SECONDS)]
    process = subprocess.Popen([*prefix, *what], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    stack.callback(_end, process)
    return process


def _end(process: "subprocess.Popen[str]") -> None:
    process.terminate()
    try:
        process.communicate(timeout=STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
