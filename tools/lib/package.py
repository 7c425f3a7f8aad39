"""tools/package builds a Debian package of meshfs that needs no network when it is installed.

The package has its own Python environment in /usr/lib/meshfs, with all Python packages that meshfs needs. It depends on
the Python version of this machine, because some of them are compiled for that version. Wheels of other packages are
kept in .cache, so that two builds of one commit give the same package, byte by byte.
"""

import argparse
import hashlib
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from deb import stage, wheels
from deb.archive import archive
from deb.commands import BuildFailure, run
from meshfs.program.command import run_command

ROOT: Final = Path(__file__).resolve().parents[2]
CACHE: Final = ROOT / ".cache/package"


def main() -> int:
    return run_command("tools/package", _main)


def _main() -> int:
    options = _parse()
    start = time.monotonic()
    try:
        package = build(options.output.absolute())
    except BuildFailure as error:
        print(f"tools/package: {error}", file=sys.stderr)
        return 1
    print(package)
    size_mib = package.stat().st_size / (1 << 20)
    digest = hashlib.sha256(package.read_bytes()).hexdigest()
    took_s = time.monotonic() - start
    print(f"tools/package: {size_mib:.1f} MiB in {took_s:.0f} s, sha256 {digest}", file=sys.stderr)
    return 0


def build(output: Path) -> Path:
    """Build the package in the folder ``output``, and return its path. Raises BuildFailure."""
    epoch = run("git", "log", "-1", "--format=%ct", cwd=ROOT).strip()
    needed = wheels.needed(ROOT, CACHE)
    with tempfile.TemporaryDirectory(prefix="meshfs-package-") as name:
        folder = Path(name) / "root"
        own = wheels.own(ROOT, Path(name), epoch)
        environment = stage.environment(ROOT, folder, own, needed)
        stage.installed(folder, environment)
        stage.documents(ROOT, folder, environment)
        return archive(folder, output, epoch)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tools/package", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=ROOT / "dist",
        metavar="FOLDER",
        help="the folder of the finished package (default: dist)",
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
