"""Options of the whole suite, clusters of real processes, expected skips, and the record of nonces."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from meshfs.limits import MIB
from meshlab.cluster.cluster import LocalCluster, tracebacks
from support import nonces
from support.run_folder import RunFolder
from support.same_cases import leave_out_constants_of_modules

FUZZ_CASES_DEFAULT = 100_000
# Node ids (or their beginnings) that a machine may skip if it lacks what they need, each with the reason. Any other
# skip fails the run, so that no test is left out silently.
SKIPS_EXPECTED: dict[str, str] = {
    "tests/network/test_meshfsd.py::test_the_unit_is_sound": "many containers have no systemd",
    "tests/systemd/": "many containers have no systemd, or may not boot one in namespaces of its own",
}

# Room for the largest blocks (8 MiB) at some depth.
MESH_DISK_BYTES = 128 * MIB

#: tools/guest sets this variable for what runs in its guest.
IN_GUEST = "MESHFS_GUEST" in os.environ

#: The folder of the sitecustomize of every process that tests start.
RECORDING = Path(__file__).parent / "support" / "recording"
TOOLS = Path(__file__).parents[1] / "tools"
REPEATS_SHOWN_MAX = 20
_NONCES = pytest.StashKey[Path]()

_skipped: list[str] = []
_repeats: list[nonces.Repeat] = []

# Every run has the same cases. A new case that fails is found by --hypothesis-profile=explore, and not by an unrelated
# commit.
settings.register_profile("same", derandomize=True)
settings.register_profile("explore", settings.get_profile("default"))
settings.load_profile("same")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("meshfs")
    group.addoption("--fuzz-cases", type=int, default=FUZZ_CASES_DEFAULT, help="seeded cases of each fuzz test")
    group.addoption("--soak", type=float, default=0.0, metavar="S", help="repeat fault tests for S seconds")
    group.addoption("--attack", action="store_true", help="the attacks of tests/attack in their long forms")
    group.addoption("--attack-frames", type=int, metavar="N", help="frames of each fuzz of tests/attack")
    group.addoption("--attack-seconds", type=float, metavar="S", help="how long each attack is measured")
    group.addoption("--attack-json", type=Path, metavar="FILE", help="write the figures of tests/attack there")
    group.addoption("--attack-exporter", default="", metavar="PROGRAM", help="attack this meshfsd, of another version")
    group.addoption("--no-unexpected-skips", action="store_true", help="a skip that is not listed fails the run")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests of tests/guest outside the guest.

    They remove disks, and need a kernel that can do that.
    """
    if IN_GUEST:
        return
    for_guest = [item for item in items if item.get_closest_marker("guest")]
    items[:] = [item for item in items if item not in for_guest]
    config.hook.pytest_deselected(items=for_guest)


@pytest.fixture(autouse=True)
def _recorded(request: pytest.FixtureRequest) -> Iterator[None]:
    """Record no nonces of a test that is marked free_nonces, because it repeats nonces of its own keys."""
    with nonces.off() if request.node.get_closest_marker("free_nonces") else nullcontext():
        yield


@pytest.fixture(scope="session")
def fuzz_cases(pytestconfig: pytest.Config) -> int:
    return int(pytestconfig.getoption("--fuzz-cases"))


@pytest.fixture(scope="session")
def soak_s(pytestconfig: pytest.Config) -> float:
    return float(pytestconfig.getoption("--soak"))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    expected = any(report.nodeid.startswith(start) for start in SKIPS_EXPECTED)
    if report.skipped and not hasattr(report, "wasxfail") and not expected:
        _skipped.append(report.nodeid)


def pytest_configure(config: pytest.Config) -> None:
    """Record the nonces of this process and of all that it starts. Processes of other users write to the folder, too.

    A shell starts commands in the background with SIGINT ignored, and their children inherit that. Some tests send
    SIGINT, and therefore it gets its usual handler here.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.getoption("--hypothesis-profile") != "explore":
        patch = pytest.MonkeyPatch()
        config.add_cleanup(patch.undo)
        leave_out_constants_of_modules(patch)
    run_folder = RunFolder()
    config.add_cleanup(run_folder.remove)
    folder = config.stash[_NONCES] = run_folder.path
    os.environ[nonces.FOLDER_VARIABLE] = str(folder)
    before = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(RECORDING), str(TOOLS), before)))
    nonces.watch(folder)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    _repeats.extend(nonces.repeats(session.config.stash[_NONCES]))
    if _repeats and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    if _skipped and session.config.getoption("--no-unexpected-skips") and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _repeats:
        terminalreporter.section("nonces used for more than one message (tests/support/nonces.py)", red=True)
        for repeat in _repeats[:REPEATS_SHOWN_MAX]:
            terminalreporter.line(str(repeat))
        terminalreporter.line(f"{len(_repeats)} in all")
    if _skipped and terminalreporter.config.getoption("--no-unexpected-skips"):
        terminalreporter.section("unexpected skips", red=True)
        for nodeid in _skipped:
            terminalreporter.line(nodeid)


@pytest.fixture
def new_cluster(tmp_path: Path) -> Iterator[Callable[..., LocalCluster]]:
    """Make a cluster for the test, with the keyword arguments of LocalCluster. The cluster ends after the test."""
    with ExitStack() as stack:

        def make(label: str = "c", **settings: Any) -> LocalCluster:
            return stack.enter_context(_checked(tmp_path / label, **settings))

        yield make


@pytest.fixture(scope="session")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """Yield three nodes with a mount each, which stay up for all tests that break nothing. n3 has no disks.

    n1: direct (image, cache none), cached (image, cache writeback), device (loop device)
    n2: direct
    """
    folder = tmp_path_factory.mktemp("mesh")
    with _checked(folder) as cluster:
        backing = cluster.image("device", MESH_DISK_BYTES).path
        cached = cluster.image("cached", MESH_DISK_BYTES, cache="writeback")
        direct = [cluster.image("direct", MESH_DISK_BYTES, file=str(folder / f"disks/{n}.img")) for n in ("n1", "n2")]
        cluster.add_node("n1", [direct[0], cached, cluster.loop("device", backing)])
        cluster.add_node("n2", [direct[1]])
        cluster.add_node("n3")
        cluster.write()
        cluster.keygen()
        for node in ("n1", "n2"):
            cluster.launch_exporter(node)
        for node in ("n1", "n2"):
            cluster.await_exporter(node)
        for node in ("n1", "n2", "n3"):
            cluster.mount(node)
        yield cluster


@contextmanager
def _checked(folder: Path, **settings: Any) -> Iterator[LocalCluster]:
    """Yield a cluster. At its end, keep the logs, and fail if one of them has a traceback."""
    try:
        with LocalCluster(folder, **settings) as cluster:
            yield cluster
    finally:
        shutil.rmtree(folder / "disks", ignore_errors=True)
    assert not list(tracebacks(folder / "log"))
