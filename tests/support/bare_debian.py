"""A bare Debian 12 for tests of the package: its smallest set of packages, what meshfs depends on, and what tests use.

The first use builds it from Debian's packages (about a minute) in .cache/debian. Machines use it as the lower layer of
an overlay, so it never changes.
"""

import fcntl
import hashlib
import shutil
import subprocess
from pathlib import Path
from typing import Final

from support.named_tests import ROOT

CACHE: Final = ROOT / ".cache/debian"
SUITE: Final = "bookworm"
#: The dependencies of the package that are not in the smallest set.
DEPENDENCIES: Final = ("fuse3", "python3")
#: What the tests of the manual pages and of the completion need, and the service manager.
OF_TESTS: Final = ("bash-completion", "fish", "man-db", "systemd", "zsh")
_VARIANT: Final = "minbase"
_COMPLETE: Final = "complete"
BUILD_TIMEOUT_S: Final = 280


def bare_debian() -> Path:
    """Return the root folder of the system."""
    packages = ",".join([*DEPENDENCIES, *OF_TESTS])
    key = hashlib.sha256(f"{SUITE} {_VARIANT} {packages}".encode()).hexdigest()[:16]
    folder = CACHE / key
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / _COMPLETE).exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            # Without unsafe-io, dpkg waits for the disk after each package. Nobody needs this system after a crash.
            command = ["mmdebstrap", f"--variant={_VARIANT}", f"--include={packages}", "--dpkgopt=force-unsafe-io"]
            subprocess.run(
                [*command, SUITE, str(folder / "root")],
                check=True,
                capture_output=True,
                stdin=subprocess.DEVNULL,
                timeout=BUILD_TIMEOUT_S,
            )
            (folder / _COMPLETE).touch()
    return folder / "root"
