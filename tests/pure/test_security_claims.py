"""Every claim of SECURITY.md names a test that exists, and so do the pages of docs/security."""

import re
from pathlib import Path

import pytest

from support.named_tests import NAMED, ROOT, items_of, missing_tests, names_in, part_of

TEXT = (ROOT / "SECURITY.md").read_text()


#: On the pages, a test file stands with or without its folder. A test without a file belongs to the file named before
#: it.
ON_PAGES = re.compile(r"`(?:tests/)?((?:\w+/)*test_\w+\.py)?(?:::)?(test_\w+)?`")
PAGES = sorted((ROOT / "docs/security").glob("*.md"))


def claims() -> list[str]:
    """Return the items of the lists below "What is claimed", each with the lines that continue it."""
    return items_of(part_of(TEXT, "What is claimed"))


def test_every_test_that_is_named_exists() -> None:
    assert len(NAMED.findall(TEXT)) > 40
    assert missing_tests(TEXT) == []


def test_every_claim_names_a_test() -> None:
    found = claims()
    assert len(found) > 40
    assert [claim for claim in found if not NAMED.search(claim)] == []


def test_the_documents_it_names_exist() -> None:
    linked = re.findall(r"\]\(([\w./-]+)\)", TEXT)
    assert linked
    assert [link for link in linked if not (ROOT / link).exists()] == []


def named_on(page: Path) -> list[tuple[str, str]]:
    """Return (file, test) of each test that the page names, and (file, "") of each test file."""
    found: list[tuple[str, str]] = []
    for file, test in ON_PAGES.findall(page.read_text()):
        if file or test:
            found.append((file or found[-1][0], test))
    return found


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_the_tests_that_a_page_names_exist(page: Path) -> None:
    named = named_on(page)
    assert named
    missing = []
    for file, test in named:
        # Two folders may have a file of the same name.
        paths = [path for path in (ROOT / "tests").rglob(Path(file).name) if str(path).endswith(f"/{file}")]
        if not any(not test or test in names_in(str(path)) for path in paths):
            missing.append(f"{file}::{test}")
    assert missing == []
