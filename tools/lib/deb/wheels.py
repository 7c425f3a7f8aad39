"""Get the wheels of the package: those that meshfs needs, which are kept in a cache, and that of meshfs itself."""

import hashlib
import platform
import shutil
import sys
import tomllib
from pathlib import Path

from deb.commands import run

_COMPLETE = "complete"


def needed(root: Path, cache: Path) -> Path:
    """Return a folder with the wheels that meshfs needs. Only the first call for a list of them needs a network."""
    wanted = sorted(tomllib.loads((root / "pyproject.toml").read_text())["project"]["dependencies"])
    key = hashlib.sha256("\n".join([*wanted, sys.version, platform.machine()]).encode()).hexdigest()[:16]
    folder = cache / f"wheels-{key}"
    if not (folder / _COMPLETE).exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        run(sys.executable, "-m", "pip", "wheel", "--no-input", "--wheel-dir", folder, *wanted)
        (folder / _COMPLETE).touch()
    return folder


def own(root: Path, folder: Path, epoch: str) -> Path:
    """Build the wheel of meshfs in the folder, and return its path."""
    build = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
    said = run(sys.executable, "-c", build, folder, cwd=root, environment={"SOURCE_DATE_EPOCH": epoch})
    return folder / said.splitlines()[-1]
