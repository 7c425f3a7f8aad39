"""Decide which names of exporters can be file names of the tree. Pure."""

from typing import Final

NAME_MAX_BYTES: Final = 255


def is_file_name(text: str) -> bool:
    """Return whether ``text`` can be one component of a path."""
    if not text or text in (".", "..") or "/" in text or "\0" in text:
        return False
    try:
        return len(text.encode()) <= NAME_MAX_BYTES
    except UnicodeEncodeError:
        return False
