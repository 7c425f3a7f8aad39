"""tools/demo shows what it promises, leaves nothing behind, and fails if a step fails."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from meshlab.cluster.cluster import LocalCluster, Running, terminated_as_interrupt
from support.commands import run, until

pytestmark = pytest.mark.mounted

DEMO = Path(__file__).parents[2] / "tools/lib/demo.py"


def environment(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "TMPDIR": str(tmp_path)}


def left(tmp_path: Path) -> list[str]:
    """Return the mounts and processes of a demo in this folder."""
    mounts = [line for line in Path("/proc/mounts").read_text().splitlines() if str(tmp_path) in line]
    processes = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if f"{tmp_path}/meshfs-demo-" in line:
            processes.append(line)
    return mounts + processes


def test_it_runs_and_leaves_nothing(tmp_path: Path) -> None:
    output = run(sys.executable, DEMO, env=environment(tmp_path))
    assert re.search(r"write +8192 x 4 KiB +\d+ IOPS", output)
    assert output.count("connected") >= 6
    assert not left(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_kept_cluster_works_until_it_is_stopped(tmp_path: Path) -> None:
    output = run(sys.executable, DEMO, "--keep", env=environment(tmp_path))
    folder = re.search(r"tools/demo --stop (\S+)", output)
    assert folder
    run("dd", f"if={folder[1]}/mnt/n3/disk/by-node/n1/disk0", "of=/dev/null", "bs=1M", "iflag=direct")
    assert left(tmp_path)
    run(sys.executable, DEMO, "--stop", folder[1])
    assert not left(tmp_path)
    assert not list(tmp_path.iterdir())
    run(sys.executable, DEMO, "--stop", folder[1], status=1)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_cleans_up_and_keeps_the_logs(tmp_path: Path, how: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, DEMO], env=environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as demo:
        until(lambda: list(tmp_path.glob("meshfs-demo-*/mnt/n2")), "it begins to mount", 30)
        demo.send_signal(how)
        output, _ = demo.communicate(timeout=60)
    assert demo.returncode == 1
    assert "interrupted" in output
    logs = re.search(r"the logs are in (\S+)", output)
    assert logs
    assert list(Path(logs[1]).glob("*.log"))
    assert not left(tmp_path)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_a_process_starts_waits_until_it_is_noted_down(
    tmp_path: Path, how: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = LocalCluster._spawn

    def interrupted(self: LocalCluster, name: str, command: Sequence[str]) -> Running:
        running = made(self, name, command)
        signal.raise_signal(how)
        return running

    (tmp_path / "c").mkdir()
    cluster = LocalCluster(tmp_path / "c")
    cluster.logs.mkdir(exist_ok=True)
    monkeypatch.setattr(LocalCluster, "_spawn", interrupted)
    try:
        with terminated_as_interrupt(), pytest.raises(KeyboardInterrupt):
            cluster.launch_exporter("n1")
        assert "n1" in cluster.exporters
    finally:
        cluster.close()
