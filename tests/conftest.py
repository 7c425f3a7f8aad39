"""Options of the whole suite, and the rule that a test is skipped only where its skip is expected."""

import pytest

FUZZ_CASES_DEFAULT = 100_000
# Node ids (or their beginnings) that may be skipped on a machine that lacks what they need,
# each with the reason. Any other skip fails the run, so that nothing is left out silently.
SKIPS_EXPECTED: dict[str, str] = {}

_skipped: list[str] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("meshfs")
    group.addoption("--fuzz-cases", type=int, default=FUZZ_CASES_DEFAULT, help="seeded cases of each fuzz test")
    group.addoption("--soak", type=float, default=0.0, metavar="S", help="repeat fault tests for S seconds")
    group.addoption("--no-unexpected-skips", action="store_true", help="a skip that is not listed fails the run")


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


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if _skipped and session.config.getoption("--no-unexpected-skips") and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _skipped and terminalreporter.config.getoption("--no-unexpected-skips"):
        terminalreporter.section("unexpected skips", red=True)
        for nodeid in _skipped:
            terminalreporter.line(nodeid)
