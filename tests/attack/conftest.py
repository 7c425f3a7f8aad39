"""Stages for attacks, and the report of what an honest session got beside each of them."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from support.attack_stage import OWNER, Row, Stage, attacked_cluster, table
from support.nonces import FOLDER_VARIABLE

#: How long an honest session is measured, in the short form and in the long form.
SECONDS_SHORT, SECONDS_LONG = 1.0, 8.0
FRAMES_SHORT, FRAMES_LONG = 3_000, 60_000
#: A fuzz of a million frames takes minutes, and an hour on a busy machine.
LONG_TIMEOUT_S = 4 * 3600
_rows: list[Row] = []

Make = Callable[[str], Stage]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests of the long form, or give them the time that they need."""
    mine = [item for item in items if Path(__file__).parent in item.path.parents]
    for item in mine:
        item.add_marker("attack")
        if config.getoption("--attack"):
            item.add_marker(pytest.mark.timeout(LONG_TIMEOUT_S))
    if not config.getoption("--attack"):
        left_out = [item for item in mine if item.get_closest_marker("long_attack")]
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _rows:
        terminalreporter.section("an honest session beside attacks: ms; RSS and descriptors before, at most, after")
        for line in table(_rows):
            terminalreporter.line(line)
    path = terminalreporter.config.getoption("--attack-json")
    if path and _rows:
        path.write_text(json.dumps([row.document() for row in _rows], indent=1) + "\n")


@pytest.fixture(scope="session")
def long(pytestconfig: pytest.Config) -> bool:
    return bool(pytestconfig.getoption("--attack"))


@pytest.fixture(scope="session", autouse=True)
def _unrecorded(pytestconfig: pytest.Config) -> Iterator[None]:
    """Record no nonces of another version, nor where figures are wanted, because recording costs time and memory."""
    options = ("--attack", "--attack-seconds", "--attack-exporter")
    with pytest.MonkeyPatch.context() as patch:
        if any(pytestconfig.getoption(option) for option in options):
            patch.delenv(FOLDER_VARIABLE, raising=False)
        yield


@pytest.fixture(scope="session")
def frames(pytestconfig: pytest.Config, long: bool) -> int:
    return pytestconfig.getoption("--attack-frames") or (FRAMES_LONG if long else FRAMES_SHORT)


@pytest.fixture(scope="session")
def stages(
    tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config, long: bool, _unrecorded: None
) -> Iterator[Make]:
    """Give the stage of a `security`. The stage is made at the first call, and again after its exporter has ended."""
    made: dict[str, Stage] = {}
    seconds = pytestconfig.getoption("--attack-seconds") or (SECONDS_LONG if long else SECONDS_SHORT)
    with ExitStack() as stack:

        def get(security: str) -> Stage:
            stage = made.get(security)
            if stage is None or stage.cluster.exporters[OWNER].process.poll() is not None:
                folder = tmp_path_factory.mktemp(f"attacked-{security}")
                cluster = attacked_cluster(folder, security, pytestconfig.getoption("--attack-exporter"))
                stack.enter_context(cluster)
                cluster.start_exporter(OWNER)
                stage = made[security] = Stage(cluster, seconds, _rows)
                stack.callback(stage.close)
            return stage

        yield get


@pytest.fixture
def stage(stages: Make) -> Iterator[Stage]:
    """Give a stage of signed sessions. When the test ends, its attackers are killed."""
    yield from _whole(stages("sign"))


@pytest.fixture(params=["sign", "encrypt"])
def secured(stages: Make, request: pytest.FixtureRequest) -> Iterator[Stage]:
    """Give a stage of signed sessions, and then one of encrypted sessions."""
    yield from _whole(stages(request.param))


@pytest.fixture
def encrypted(stages: Make) -> Iterator[Stage]:
    yield from _whole(stages("encrypt"))


def _whole(stage: Stage) -> Iterator[Stage]:
    try:
        yield stage
    finally:
        stage.end_all()
