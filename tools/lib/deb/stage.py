"""Lay out the files of the package below a folder that stands for the root of the file system.

/usr/lib/meshfs                 a virtual environment, without pip and without scripts of other packages
/usr/lib/meshfs/packaged        the package's name, so that `meshctl install` leaves the installation alone
the rest                        what `meshctl install` puts in place
/usr/share/doc/meshfs           README, the pages of docs/, the changes, and the licences of all Python packages
"""

import gzip
import shutil
import sys
import tomllib
from collections.abc import Iterator
from email.parser import Parser
from pathlib import Path
from typing import Final

from deb.commands import run

NAME: Final = "meshfs"
#: Where the environment is on the machine that installs the package.
ENVIRONMENT: Final = Path("/usr/lib/meshfs")
_PYTHON: Final = Path("/usr/bin/python3")
_LAUNCHER: Final = """\
#!{environment}/bin/python3 -I
import sys
from {module} import {function}

sys.exit({function}())
"""
#: Files of pip about its own work. Some of them name the machine that built the package.
_OF_PIP: Final = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json")
_COPYRIGHT: Final = """\
This package has meshfs and the Python packages that it needs, in {environment}.

The repository of meshfs states no licence. Each of the other packages has its licence in its folder
{environment}/lib/python3*/site-packages/NAME-VERSION.dist-info:

"""


def environment(root: Path, stage: Path, own_wheel: Path, wheels: Path) -> Path:
    """Make the virtual environment with meshfs in it, and return its folder in the stage."""
    folder = stage / str(ENVIRONMENT).strip("/")
    run(_PYTHON, "-m", "venv", "--without-pip", folder)
    python = folder / "bin/python3"
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--no-input", "--no-compile", "--no-index")
    run(*pip, "--find-links", wheels, own_wheel)
    (folder / "lib64").unlink(missing_ok=True)
    for path in list((folder / "bin").iterdir()):
        if not path.name.startswith("python"):
            path.unlink()
    for path in folder.rglob("*.dist-info/*"):
        if path.name in _OF_PIP:
            path.unlink()
    for path in folder.rglob("pyfuse3/**/*.so"):
        # It was built on this machine, and its debugging information has the paths of the build.
        run("strip", "--strip-unneeded", path)
    version = next(line for line in (folder / "pyvenv.cfg").read_text().splitlines() if line.startswith("version"))
    (folder / "pyvenv.cfg").write_text(f"home = /usr/bin\ninclude-system-site-packages = false\n{version}\n")
    (folder / "packaged").write_text(f"{NAME}\n")
    for name, place in tomllib.loads((root / "pyproject.toml").read_text())["project"]["scripts"].items():
        module, _, function = place.partition(":")
        script = folder / "bin" / name
        script.write_text(_LAUNCHER.format(environment=ENVIRONMENT, module=module, function=function))
        script.chmod(0o755)
    return folder


def installed(stage: Path, folder: Path) -> None:
    """Let `meshctl install` put its files in place. dpkg keeps the record of them, so its own record is removed."""
    run(folder / "bin/python3", "-B", folder / "bin/meshctl", "install", "--root", stage, "--prefix", "/usr")
    (folder / "installed.json").unlink()
    for path in (stage / "usr/share/man").rglob("*.[58]"):
        _compress(path, path.read_bytes())
        path.unlink()


def documents(root: Path, stage: Path, folder: Path) -> None:
    place = stage / "usr/share/doc" / NAME
    shutil.copytree(root / "docs", place / "docs")
    shutil.copy(root / "README.md", place)
    _compress(place / "changelog", (root / "CHANGELOG.md").read_bytes())
    head = _COPYRIGHT.format(environment=ENVIRONMENT)
    (place / "copyright").write_text(head + "\n".join(sorted(_licences(folder))) + "\n")


def _licences(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*.dist-info/METADATA"):
        facts = Parser().parsestr(path.read_text())
        classified = [each.rpartition(" :: ")[2] for each in facts.get_all("Classifier", []) if each[:9] == "License :"]
        licence = facts["License-Expression"] or ", ".join(classified) or (facts["License"] or "").split("\n")[0]
        if facts["Name"] != NAME:
            yield f"    {facts['Name']} {facts['Version']}: {licence or 'see its folder'}"


def _compress(path: Path, content: bytes) -> None:
    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(content, 9, mtime=0))
