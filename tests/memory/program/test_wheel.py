"""The files of `pip install .`: the commands, the systemd units, and one version."""

import subprocess
import sys
import zipfile
from configparser import ConfigParser
from email.parser import Parser
from pathlib import Path

import pytest

from meshfs import __version__

ROOT = Path(__file__).resolve().parents[3]
GUARD_S = 120


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    build = "import sys; from hatchling.build import build_wheel; build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, folder], cwd=ROOT, check=True, capture_output=True, timeout=GUARD_S)
    (path,) = folder.iterdir()
    return zipfile.ZipFile(path)


def text(wheel: zipfile.ZipFile, ending: str) -> str:
    (name,) = (name for name in wheel.namelist() if name.endswith(ending))
    return wheel.read(name).decode()


def test_the_commands(wheel: zipfile.ZipFile) -> None:
    points = ConfigParser()
    points.read_string(text(wheel, ".dist-info/entry_points.txt"))
    commands = dict(points["console_scripts"])
    assert set(commands) == {"meshfs", "meshfsd", "meshctl"}
    for place in commands.values():
        module = place.partition(":")[0].replace(".", "/")
        assert {f"{module}.py", f"{module}/__init__.py"} & set(wheel.namelist())


def test_the_version_is_the_packages(wheel: zipfile.ZipFile) -> None:
    assert Parser().parsestr(text(wheel, ".dist-info/METADATA"))["Version"] == __version__


def test_the_units(wheel: zipfile.ZipFile) -> None:
    """docs/admin/install.md links the units from PREFIX/lib/systemd/system."""
    place = ".data/data/lib/systemd/system/"
    installed = {name.partition(place)[2] for name in wheel.namelist() if place in name}
    units = ROOT / "daemon/systemd"
    assert installed == {str(path.relative_to(units)) for path in units.rglob("*") if path.is_file()}
