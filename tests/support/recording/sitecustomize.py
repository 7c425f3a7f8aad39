"""Makes each Python process of a test run record its nonces. tests/conftest.py puts this folder before PYTHONPATH."""

import importlib.util
import os
import sys
from pathlib import Path

if folder := os.environ.get("MESHFS_TEST_NONCES"):
    spec = importlib.util.spec_from_file_location(
        "meshfs_test_nonces", Path(__file__).resolve().parents[1] / "nonces.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    module.watch(Path(folder))
