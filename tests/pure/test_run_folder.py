"""Folders of test runs: a run that was killed leaves its folder to the next run, and a running one keeps its own."""

import os
import subprocess
import sys
from pathlib import Path

from support.run_folder import RunFolder


def test_a_run_that_ends_removes_its_folder(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    (folder.path / "file").write_text("x")
    folder.remove()
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_a_killed_run_is_removed_and_no_other(tmp_path: Path) -> None:
    goes_on = RunFolder(tmp_path)
    killed = "import os, pathlib, sys; from support.run_folder import RunFolder; "
    killed += "RunFolder(pathlib.Path(sys.argv[1])); os.kill(os.getpid(), 9)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", killed, str(tmp_path)], env=environment, timeout=60, check=False)
    assert len(list(tmp_path.iterdir())) == 2
    (tmp_path / "another program's").mkdir()
    latest = RunFolder(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted((goes_on.path, latest.path, tmp_path / "another program's"))
    latest.remove()
    goes_on.remove()
