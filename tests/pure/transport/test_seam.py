"""Only meshfs/transport knows how a transport frames messages, or which descriptor it has."""

import re
from pathlib import Path
from typing import Final

import pytest

MESHFS: Final = Path(__file__).parents[3] / "meshfs"
#: What would tie a message or a wing to TCP.
_FRAMING: Final = re.compile(r"PREFIX|length prefix|transport\.framing|pack_length")
_STREAM: Final = re.compile(r"transport\.fd|byte_stream|StreamInlet|StreamOutQueue|receive_into|when_writable")


@pytest.mark.parametrize("forbidden", [_FRAMING, _STREAM], ids=["framing", "stream"])
@pytest.mark.parametrize("folder", ["smb", "initiator", "exporter"])
def test_no_line_outside_of_the_transport_names_it(folder: str, forbidden: re.Pattern[str]) -> None:
    found = [
        f"{path.relative_to(MESHFS)}:{number}: {line.strip()}"
        for path in sorted((MESHFS / folder).rglob("*.py"))
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if forbidden.search(line)
    ]
    assert found == []
