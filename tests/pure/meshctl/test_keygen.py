"""meshctl keygen and password: keys are made, shown and never overwritten."""

from pathlib import Path

import pytest

from meshfs.cluster import config as cluster_config
from meshfs.cluster.keys import Keyring
from support.meshctl_config import CONFIG, run


def test_keygen_makes_every_key_and_password_derives_from_them(
    config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "keygen", config_file)
    assert code == 0
    assert out.count("made a key pair") == 2
    code, out, _ = run(capsys, "keygen", config_file, "--node", "n1", "--node", "n2")
    assert code == 0
    assert out.count("kept the existing key pair") == 2
    code, out, _ = run(capsys, "password", config_file, "--node", "n1", "--to", "n2")
    config = cluster_config.load(config_file)
    assert (code, out) == (0, Keyring(config, "n1").password_to("n2") + "\n")
    # The other node's key gives the same password.
    (config.cluster.keys / "n1.key").unlink()
    assert run(capsys, "password", config_file, "--node", "n1", "--to", "n2")[:2] == (0, out)


def test_keygen_makes_one_node_only(config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "keygen", config_file, "--node", "n2")
    assert sorted(path.name for path in (config_file.parent / "keys").iterdir()) == ["n2.key", "n2.pub"]


def test_keygen_leaves_a_key_in_the_config_alone(config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "keygen", config_file, "--node", "n2")
    folder = config_file.parent / "keys"
    public = (folder / "n2.pub").read_text().strip()
    for path in folder.iterdir():
        path.unlink()
    config_file.write_text(CONFIG + f'public_key = "{public}"\n')
    code, out, _ = run(capsys, "keygen", config_file, "--node", "n2")
    assert code == 0
    assert "its private key is on the node" in out
    assert not list(folder.iterdir())


def test_keygen_where_a_key_is_open_to_others(config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "keygen", config_file)
    (config_file.parent / "keys/n1.key").chmod(0o644)
    code, _, err = run(capsys, "keygen", config_file)
    assert code == 2
    assert "n1.key: mode 0644 opens the private key to others" in err
