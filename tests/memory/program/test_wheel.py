"""The files of `pip install .`: the commands, what `meshctl install` puts in place, and one version."""

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


def test_the_files_of_meshctl_install(wheel: zipfile.ZipFile) -> None:
    """In the repository, the units and the page of the config are behind symbolic links."""
    place = "meshctl/installing/files/"
    installed = {name.removeprefix(place): wheel.read(name) for name in wheel.namelist() if name.startswith(place)}
    units = ROOT / "daemon/systemd"
    for path in (path for path in units.rglob("*") if path.is_file()):
        assert installed.pop(f"systemd/{path.relative_to(units)}") == path.read_bytes()
    assert installed.pop("config.md") == (ROOT / "docs/admin/config.md").read_bytes()
    assert set(installed) == {"meshfs.bash", "meshfs.zsh", "meshfs.fish"}
