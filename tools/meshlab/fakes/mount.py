"""A mount process with disks in memory: ``python -m meshlab.fakes.mount MOUNTPOINT OPTIONS``.

OPTIONS is one JSON object:

    nodes       {node: number of disks}; the disks are named disk0, disk1, ...
    size_bytes  the size of every disk
    read_only   the last disk of each node is read-only
    cache       "page" or "none"
    system      the mount's I/O class is system
    plain_loop  behave as if the version of pyfuse3 were unknown
    delay_s     every read, write and flush takes up to this long

The process prints "ready" when it serves. It then reads lines from stdin, where KEY is a disk's id:

    KEY ERRNO   the disk's I/O fails with this errno from now on; with 0, it works again
    KEY hang    the disk's I/O waits for ever
    calls KEY   print the disk's recorded calls as JSON

It prints "done" after each of the first two.
"""

import json
import sys
import time

import trio

from meshfs.fuse.gone_pages import GonePages
from meshfs.fuse.handles import OpenFiles
from meshfs.fuse.operations import Operations
from meshfs.fuse.pyfuse3_front import workers
from meshfs.fuse.pyfuse3_front.session import serve
from meshfs.model import Access, DiskInfo, IoClass
from meshfs.namespace.catalog import Catalog
from meshfs.namespace.tree import MeshTree
from meshlab.fakes.enclosure_port import FakeEnclosurePort
from meshlab.fakes.port import FakePort, fake_disk, fake_ports


def _disks(nodes: dict[str, int], size_bytes: int, *, read_only: bool) -> list[DiskInfo]:
    return [
        fake_disk(
            node,
            f"disk{index}",
            size_bytes,
            access=Access.READ_ONLY if read_only and index == count - 1 else Access.READ_WRITE,
        )
        for node, count in nodes.items()
        for index in range(count)
    ]


def _obey(line: str, ports: dict[str, FakePort]) -> None:
    disk_id, word = line.split()
    if disk_id == "calls":
        port = ports[word]
        print(json.dumps({"calls": port.calls, "opened": port.opened, "handles": port.handles}), flush=True)
    elif word == "hang":
        ports[disk_id].gate = trio.Event()
        print("done", flush=True)
    else:
        ports[disk_id].error = int(word) or None
        print("done", flush=True)


async def _listen(ports: dict[str, FakePort]) -> None:
    async with trio.lowlevel.FdStream(0) as stdin:
        rest = b""
        async for chunk in stdin:
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                _obey(line.decode(), ports)


async def _main(mountpoint: str, options: dict[str, object]) -> None:
    nodes = options["nodes"]
    size_bytes = options["size_bytes"]
    if not (isinstance(nodes, dict) and isinstance(size_bytes, int)):
        raise SystemExit("nodes and size_bytes are required")
    disks = _disks(nodes, size_bytes, read_only=bool(options.get("read_only")))
    ports = fake_ports(disks)
    for port in ports.values():
        port.delay_s = float(str(options.get("delay_s", 0)))
    catalog = Catalog([*nodes, "down"])
    for node in nodes:
        catalog.announce(node, [info for info in disks if info.node == node])
    tree = MeshTree(catalog.nodes, time.time_ns())
    tree.update(catalog.disks, time.time_ns())
    operations = Operations(
        tree,
        lambda info: ports[info.id],
        FakeEnclosurePort,
        lambda whole: b'{"version":1}',
        OpenFiles(),
        GonePages(),
        io_class=IoClass.SYSTEM if options.get("system") else IoClass.APP,
        page_cache=options.get("cache") != "none",
    )
    if options.get("plain_loop"):
        workers._VERSION_KNOWN = "another"  # type: ignore[misc]
    kernel = {"fsname=fake", "subtype=meshfs", "default_permissions", "allow_other"}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_listen, ports)
        await serve(operations, mountpoint, kernel, on_ready=lambda: print("ready", flush=True))
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(_main, sys.argv[1], json.loads(sys.argv[2]))
