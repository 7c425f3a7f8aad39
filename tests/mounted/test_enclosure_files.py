"""The files of enclosures on real mounts: SES pages to read, control pages to write, on every node."""

import errno
import os
import re
import signal
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from meshfs.limits import MIB
from meshfs.ses.build import unbundle
from meshfs.ses.configuration import ElementPlace, parse_configuration
from meshfs.ses.page import PageCode
from meshfs.ses.status import Lamps, pack_control, parse_status
from meshlab.cluster.cluster import LocalCluster, LocalFolder
from support.commands import run, until
from support.direct import errno_of

pytestmark = pytest.mark.mounted

SIZE = 4 * MIB
ID = "enc-n1-shelf"
IO_TIMEOUT_S = 3.0
#: A change at the owner shows on every mount within this time.
SHOWN_WITHIN_S = 2.0
NOBODY = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")


class Stage:
    """Runs meshfsd of node n1 with a folder of two images, and mounts on n1, on n2, and on n3, which may only read."""

    def __init__(self, cluster: LocalCluster, folder: Path) -> None:
        self.cluster = cluster
        self.images = folder / "images"
        self.images.mkdir()
        for name in ("01-a.img", "03-b.img"):
            (self.images / name).write_bytes(name.encode().ljust(SIZE, b"\0"))
        cluster.add_node("n1").folders.append(LocalFolder("shelf", self.images, {"slots": 4}))
        cluster.add_node("n2")
        cluster.add_node("n3")
        cluster.write()
        # The rights of single nodes are a table, which the settings of LocalFolder cannot hold.
        text = cluster.config.read_text().replace("slots = 4", 'slots = 4\nnodes = { n3 = "ro" }')
        cluster.config.write_text(text)
        cluster.keygen()
        cluster.start_exporters()
        for node in ("n1", "n2", "n3"):
            cluster.mount(node)
            until(self.file(node).exists, f"{node} shows the enclosure")
            slots = cluster.mountpoint(node) / "disk/by-enclosure" / ID
            until(lambda slots=slots: sorted(os.listdir(slots)) == ["slot01", "slot03"], f"{node} shows both disks")

    def file(self, node: str = "n2") -> Path:
        return self.cluster.mountpoint(node) / "enclosure/by-id" / ID

    def page(self, slot: int, lamps: Lamps) -> bytes:
        """Return the control page that switches the lamps of a slot."""
        pages = unbundle(self.file().read_bytes())
        configuration = parse_configuration(pages[PageCode.CONFIGURATION])
        status = parse_status(pages[PageCode.STATUS], configuration)
        return pack_control(configuration, status, {ElementPlace(0, slot - 1): lamps})

    def decoded(self, node: str) -> str:
        return run("sg_ses", f"--inhex={self.file(node)}", "--raw", "--raw", "--status", "--page=2")

    def slot(self, number: int, node: str = "n3") -> str:
        return os.getxattr(self.file(node), f"user.meshfs.slot.slot{number:02}").decode()

    def reload(self, config: str) -> None:
        self.cluster.config.write_text(config)
        os.kill(self.cluster.exporters["n1"].pid, signal.SIGHUP)


@contextmanager
def running_stage() -> Iterator[Stage]:
    # Other users may enter this folder. They may not enter tmp_path, whenever another pytest starts.
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.chmod(0o711)
        yield Stage(stack.enter_context(LocalCluster(folder / "c", io_timeout_s=IO_TIMEOUT_S)), folder)


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """Serve the tests that leave images, config and exporters as they were."""
    with running_stage() as stage:
        yield stage


@pytest.fixture
def own_stage() -> Iterator[Stage]:
    with running_stage() as stage:
        yield stage


@contextmanager
def opened(path: Path, flags: int) -> Iterator[int]:
    fd = os.open(path, flags)
    try:
        yield fd
    finally:
        os.close(fd)


def test_every_node_reads_the_same_pages_and_sg_ses_decodes_them(stage: Stage) -> None:
    contents = {stage.file(node).read_bytes() for node in ("n1", "n2", "n3")}
    assert len(contents) == 1
    (content,) = contents
    assert run("cat", stage.file(), encoding="latin-1").encode("latin-1") == content
    shown = stage.file().stat()
    assert shown.st_size == len(content)
    assert stat.S_IMODE(shown.st_mode) == 0o660
    assert stat.S_IMODE(stage.file("n3").stat().st_mode) == 0o440
    assert len(re.findall("status: Not installed", stage.decoded("n3"))) == 2
    link = stage.cluster.mountpoint("n2") / "enclosure/by-node/n1/shelf"
    assert os.readlink(link) == f"../../by-id/{ID}"
    assert link.read_bytes() == content
    listing = run("ls", "-lR", stage.cluster.mountpoint("n2"))
    assert f"shelf -> ../../by-id/{ID}" in listing
    assert "slot03 -> ../../by-id/image-" in listing


def test_the_file_is_read_in_pieces_of_any_size(stage: Stage) -> None:
    content = stage.file().read_bytes()
    for size in (1, 7, 512, 1 << 20):
        copy = run("dd", f"if={stage.file()}", f"bs={size}", "status=none", encoding="latin-1")
        assert copy.encode("latin-1") == content
    with opened(stage.file(), os.O_RDONLY | os.O_DIRECT) as fd:
        assert os.pread(fd, 10, 3) == content[3:13]
        assert os.pread(fd, 10, len(content)) == b""


@pytest.mark.parametrize("how", ["cp", "cat", "dd", "tee"])
def test_a_lamp_is_switched_from_another_node(stage: Stage, how: str) -> None:
    page = stage.images.parent / "page"
    page.write_bytes(stage.page(3, Lamps(locate=True)))
    target = stage.file("n2")
    script = {
        "cp": f"cp {page} {target}",
        "cat": f"cat {page} > {target}",
        "dd": f"dd if={page} of={target} status=none conv=notrunc,fsync",
        "tee": f"tee {target} < {page} > /dev/null",
    }
    run("sh", "-ec", script[how])
    assert "Ident=1" in stage.decoded("n1")
    assert len(re.findall("Ident=1", stage.decoded("n3"))) == 1
    until(lambda: stage.slot(3).startswith("ok locate disk=image-"), "the attribute says so", SHOWN_WITHIN_S)
    page.write_bytes(stage.page(3, Lamps(locate=False)))
    run("sh", "-ec", script[how])
    assert "Ident=1" not in stage.decoded("n3")


def test_an_open_sees_one_content_until_it_writes_itself(stage: Stage) -> None:
    page = stage.page(1, Lamps(fault=True))
    with opened(stage.file("n1"), os.O_RDONLY) as reader, opened(stage.file("n2"), os.O_RDWR) as writer:
        before = os.pread(reader, 1 << 20, 0)
        assert os.pread(writer, 1 << 20, 0) == before
        assert os.pwrite(writer, page, 0) == len(page)
        os.fsync(writer)
        os.ftruncate(writer, 0)
        assert os.pread(reader, 1 << 20, 0) == before
        after = os.pread(writer, 1 << 20, 0)
        assert after != before
        assert stage.file("n3").read_bytes() == after
        os.pwrite(writer, stage.page(1, Lamps(fault=False)), 0)


def test_what_is_no_control_page_is_refused_with_its_errno(stage: Stage) -> None:
    page = stage.page(1, Lamps(locate=True))
    before = stage.file().read_bytes()
    with opened(stage.file(), os.O_WRONLY) as fd:
        assert errno_of(lambda: os.pwrite(fd, page, 4)) == errno.EINVAL
        assert errno_of(lambda: os.pwrite(fd, page[:-1], 0)) == errno.EINVAL
        assert errno_of(lambda: os.pwrite(fd, page + b"\0", 0)) == errno.EINVAL
        assert errno_of(lambda: os.pwrite(fd, b"x", 0)) == errno.EINVAL
        stale = page[:4] + bytes((page[4] ^ 0xFF,)) + page[5:]
        assert errno_of(lambda: os.pwrite(fd, stale, 0)) == errno.ESTALE
    with opened(stage.file(), os.O_WRONLY | os.O_APPEND) as fd:
        assert errno_of(lambda: os.write(fd, page)) == errno.EINVAL
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC):
        assert errno_of(lambda flags=flags: os.open(stage.file("n3"), flags)) == errno.EROFS
    assert stage.file().read_bytes() == before


def test_other_users_may_neither_read_nor_control(stage: Stage) -> None:
    words = (*NOBODY, "getfattr", "--absolute-names", "-d", "-m", "-", stage.file())
    shown = subprocess.run(words, capture_output=True, text=True, check=True, cwd="/").stdout
    assert 'system.meshfs.state="ok"' in shown
    assert re.search(r'system\.meshfs\.slot\.slot03="ok .*disk=image-', shown)
    assert "user." not in shown
    for command in ("cat {}", "true > {}"):
        script = [*NOBODY, "sh", "-c", command.format(stage.file())]
        done = subprocess.run(script, capture_output=True, text=True, check=False, cwd="/")
        assert "Permission denied" in done.stderr


def test_attributes_are_those_of_the_enclosure_and_follow_the_images(own_stage: Stage) -> None:
    shown = run("getfattr", "--absolute-names", "-d", own_stage.file())
    for line in (
        'user.meshfs.id="enc-n1-shelf"',
        'user.meshfs.node="n1"',
        'user.meshfs.name="shelf"',
        'user.meshfs.kind="directory"',
        'user.meshfs.access="rw"',
        'user.meshfs.state="ok"',
        'user.meshfs.slots="4"',
        'user.meshfs.slot.slot02="not-installed"',
    ):
        assert line in shown
    size = own_stage.file().stat().st_size
    changed_ns = own_stage.file().stat().st_mtime_ns
    (own_stage.images / "02-c.img").write_bytes(bytes(SIZE))
    for node in ("n1", "n2", "n3"):
        until(
            lambda node=node: own_stage.slot(2, node).startswith("ok disk=image-"), f"{node}: it is in", SHOWN_WITHIN_S
        )
    assert own_stage.file().stat().st_mtime_ns > changed_ns
    assert own_stage.file().stat().st_size == len(own_stage.file().read_bytes()) >= size


def test_the_link_of_a_slot_is_right_within_2_s_however_hot_the_kernels_caches_are(own_stage: Stage) -> None:
    links = own_stage.cluster.mountpoint("n3") / "disk/by-enclosure" / ID
    first, second = (os.path.basename(os.readlink(links / slot)) for slot in ("slot01", "slot03"))
    stop = threading.Event()

    def walk() -> None:
        while not stop.is_set():
            for slot in ("slot01", "slot02", "slot03"):
                errno_of(lambda slot=slot: os.stat(links / slot))
            time.sleep(0.01)

    walker = threading.Thread(target=walk)
    walker.start()
    try:
        for names in (("01-a.img", "02-a.img"), ("03-b.img", "01-b.img"), ("02-a.img", "03-a.img")):
            (own_stage.images / names[0]).rename(own_stage.images / names[1])
            slot = f"slot{names[1][:2]}"
            wanted = first if names[1].endswith("-a.img") else second
            until(lambda slot=slot, wanted=wanted: os.readlink(links / slot).endswith(wanted), slot, SHOWN_WITHIN_S)
        until(lambda: sorted(os.listdir(links)) == ["slot01", "slot03"], "no other link is left", SHOWN_WITHIN_S)
        assert (links / "slot03").read_bytes()[:8] == b"01-a.img"
        assert (links / "slot01").read_bytes()[:8] == b"03-b.img"
    finally:
        stop.set()
        walker.join()


def test_while_the_owner_is_away_reading_fails_at_its_bound_and_then_at_once(own_stage: Stage) -> None:
    page = own_stage.page(1, Lamps(locate=True))
    reader, writer = os.open(own_stage.file(), os.O_RDONLY), os.open(own_stage.file(), os.O_WRONLY)
    try:
        content = os.pread(reader, 1 << 20, 0)
        own_stage.cluster.stop_exporter("n1", signal.SIGKILL)
        until(lambda: os.getxattr(own_stage.file(), "user.meshfs.state") == b"absent", "it is absent")
        start_s = time.monotonic()
        for _ in range(5):
            assert errno_of(own_stage.file().read_bytes) == errno.ETIMEDOUT
            assert errno_of(lambda: os.pwrite(writer, page, 0)) == errno.ETIMEDOUT
        assert time.monotonic() - start_s < IO_TIMEOUT_S + 1.5
        # What was read at the open is still there.
        assert os.pread(reader, 1 << 20, 0) == content
        own_stage.cluster.start_exporter("n1")
        until(lambda: own_stage.file().read_bytes() == content, "it is back")
        assert os.pwrite(writer, page, 0) == len(page)
        assert "Ident=1" in own_stage.decoded("n2")
    finally:
        os.close(reader)
        os.close(writer)


def test_io_of_an_enclosure_that_left_the_config_fails_at_once(own_stage: Stage) -> None:
    page = own_stage.page(1, Lamps(locate=True))
    text = own_stage.cluster.config.read_text()
    without, _, _ = text.partition("  [[node.enclosure]]")
    after = text[text.index("[[node]]", len(without)) :]
    with opened(own_stage.file(), os.O_RDWR) as fd:
        own_stage.reload(without + after)
        until(lambda: not own_stage.file().exists(), "it is removed")
        start_s = time.monotonic()
        assert errno_of(lambda: os.pread(fd, 10, 0)) == errno.ENODEV
        assert errno_of(lambda: os.pwrite(fd, page, 0)) == errno.ENODEV
        assert time.monotonic() - start_s < 0.5
        own_stage.reload(text)
        until(own_stage.file().exists, "it is back")
        until(lambda: os.pread(fd, 1 << 20, 0), "the open file can be read again")


def test_a_node_that_leaves_the_cluster_takes_its_enclosures_along(own_stage: Stage) -> None:
    point = own_stage.cluster.mountpoint("n2")
    text = own_stage.cluster.config.read_text()
    start = text.index("[[node]]")
    with opened(own_stage.file(), os.O_RDONLY) as fd:
        own_stage.cluster.config.write_text(text[:start] + text[text.index("[[node]]", start + 1) :])
        own_stage.cluster.meshctl("reload", str(point))
        assert os.listdir(point / "enclosure/by-id") == []
        assert errno_of(lambda: os.pread(fd, 10, 0)) == errno.ENODEV
    assert not (point / "disk/by-enclosure" / ID).exists()
