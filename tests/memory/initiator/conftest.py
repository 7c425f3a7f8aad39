"""A proxy between a mount and an exporter, and the port of the exporter behind the proxy."""

from collections.abc import Iterator

import pytest

from meshlab.cluster.cluster import free_port
from meshlab.smb.proxy import Proxy


@pytest.fixture
def port() -> int:
    return free_port("127.0.0.1")


@pytest.fixture
def proxy(port: int) -> Iterator[Proxy]:
    with Proxy.at("127.0.0.1", 0, ("127.0.0.1", port)) as proxy:
        yield proxy
