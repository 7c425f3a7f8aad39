"""Fixtures of several files: the installed command for mount(8), and a device that can vanish."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshlab.cluster.cluster import BIN
from support.vanishing_device import Device


@pytest.fixture(scope="module")
def installed() -> Iterator[None]:
    """Install the command where mount(8) looks, whatever PATH says: the type's helper, and mount.fuse3's command."""
    links = [Path("/sbin/mount.meshfs"), Path("/usr/local/bin/meshfs")]
    ours = [link for link in links if not os.path.lexists(link)]
    for link in ours:
        link.symlink_to(BIN / "meshfs")
    yield
    for link in ours:
        link.unlink()


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    """Attach a device for one test, and detach it afterwards."""
    device = Device(tmp_path / "device")
    try:
        device.attach()
        yield device
    finally:
        device.close()
