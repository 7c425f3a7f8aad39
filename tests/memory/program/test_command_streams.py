"""Every command whose standard streams cannot be written ends with a status and one line, and without a traceback."""

import os
import subprocess
import tempfile
from pathlib import Path

import pytest

from meshfs import __version__
from meshlab.cluster.cluster import BIN

GUARD_S = 60
CONFIG = '[cluster]\nname = "c"\n[[node]]\nname = "n1"\naddresses = ["127.0.0.1"]\n'
# In the second environment, Python has only ASCII.
LOCALES = [{"LC_ALL": "C"}, {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}]
COMMANDS = [
    ("meshctl", "--help"),
    ("meshctl", "keygen", "CONFIG"),
    ("meshctl", "top", "--config", "CONFIG", "--node", "n1", "--count", "1", "--interval", "0.1"),
    ("meshfs", "--help"),
    ("meshfs", "--version"),
    ("meshfsd", "--help"),
]


def shell(command: tuple[str, ...], redirection: str, folder: Path) -> subprocess.CompletedProcess[str]:
    config = folder / "cluster.toml"
    config.write_text(CONFIG)
    line = [str(BIN / command[0]), *(str(config) if word == "CONFIG" else word for word in command[1:])]
    script = f'"$@" {redirection}'
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", script, "bash", *line],
        capture_output=True,
        text=True,
        timeout=GUARD_S,
        check=False,
    )


@pytest.mark.parametrize(
    ("redirection", "reason"),
    [
        (">/dev/full", "No space left on device"),
        (">&-", "Bad file descriptor"),
        ("<&- >&-", "Bad file descriptor"),
        # It is no error if the reader of a pipe has read enough.
        ("| true", None),
        # No stream is left for the error, and it must not get into the output.
        ("2>/dev/full >/dev/full", None),
        ("2>&- >&-", None),
    ],
)
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_output_that_cannot_be_written(
    tmp_path: Path, command: tuple[str, ...], redirection: str, reason: str | None
) -> None:
    done = shell(command, redirection, tmp_path)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if "not running" not in line]
    assert lines == ([] if reason is None else [f"{command[0]}: standard output: {reason}"])
    assert (done.returncode, done.stdout) == (1, "")


@pytest.mark.parametrize("command", [("meshctl", "nosuch"), ("meshfs", "c"), ("meshfsd",), ("meshctl", "flows")])
@pytest.mark.parametrize("redirection", ["2>/dev/full", "2>&-"])
def test_errors_that_cannot_be_written(tmp_path: Path, command: tuple[str, ...], redirection: str) -> None:
    """The errors do not go to standard output instead, and the exit status stays the same."""
    done = shell(command, redirection, tmp_path)
    assert (done.returncode, done.stdout) == (1 if command[0] == "meshfs" else 2, "")


def test_each_command_tells_the_one_version(tmp_path: Path) -> None:
    for name in ("meshctl", "meshfsd", "meshfs"):
        assert shell((name, "--version"), "", tmp_path).stdout == f"{name} {__version__}\n"
    helper = tmp_path / "mount.meshfs"
    helper.symlink_to(BIN / "meshfs")
    for option in ("-V", "--version"):
        done = subprocess.run([helper, option], capture_output=True, text=True, timeout=GUARD_S, check=True)
        assert done.stdout == f"mount.meshfs {__version__}\n"


@pytest.mark.parametrize(
    "locale", [{"LC_ALL": "C"}, {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}]
)
def test_names_that_the_locale_has_no_letters_for(tmp_path: Path, locale: dict[str, str]) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9 \xc3\xa9"))
    folder.mkdir()
    (folder / "cluster.toml").write_text(CONFIG)
    for command in (["keygen", folder / "cluster.toml"], ["status", folder]):
        done = subprocess.run(
            [BIN / "meshctl", *command], capture_output=True, env={**os.environ, **locale}, timeout=GUARD_S, check=False
        )
        assert (done.returncode, b"Traceback" in done.stderr) == (int(command[0] == "status"), False)
        assert b"caf\\udce9" in done.stdout


def test_a_folder_of_keys_that_may_not_be_read() -> None:
    """The command cannot know whether the private key exists, so its message does not say that it is missing."""
    # The test's own folder is no use, because the folders above it are closed to other users.
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "cluster.toml").write_text(CONFIG + f'public_key = "{"A" * 43}="\n')
        # Only root can become the user nobody. Any other user cannot read a folder of mode 0.
        user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.geteuid() == 0 else []
        (folder / "keys").mkdir(mode=0o700 if user else 0)
        line = [*user, BIN / "meshctl", "keygen", folder / "cluster.toml"]
        done = subprocess.run(line, capture_output=True, text=True, timeout=GUARD_S, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"meshctl: {folder}/keys/n1.key: cannot read the key: Permission denied\n"
