"""A property gets the same cases in every run, whatever else the run imported."""

import importlib.util
import random
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st


def cases() -> list[tuple[float, int]]:
    found: list[tuple[float, int]] = []

    @settings(max_examples=200, deadline=None)
    @given(st.floats(0.0, 1e9), st.integers(0, 1 << 60))
    def collect(number: float, count: int) -> None:
        found.append((number, count))

    collect()
    return found


def test_the_cases_of_a_property_do_not_depend_on_what_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config
) -> None:
    if pytestconfig.getoption("--hypothesis-profile") == "explore":
        pytest.skip("this profile is for other cases in every run")
    before = cases()
    dice = random.Random(0)
    path = tmp_path.parent / "constants.py"
    path.write_text("".join(f"A{n}, B{n} = {dice.randrange(1 << 60)}, {dice.random() * 1e9}\n" for n in range(100)))
    spec = importlib.util.spec_from_file_location("constants", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "constants", module)
    spec.loader.exec_module(module)
    assert cases() == before
