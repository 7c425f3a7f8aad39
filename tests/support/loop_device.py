"""Loop devices of images in a test's folder, which are detached at the end whatever happened."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.commands import run


@contextmanager
def loop_device(image: Path, size_bytes: int, *options: str) -> Iterator[str]:
    """Attach ``image``, which is made if it is missing, and yield the path of the device."""
    if not image.exists():
        with image.open("wb") as file:
            file.truncate(size_bytes)
    device = run("losetup", "--find", "--show", *options, image).strip()
    try:
        yield device
    finally:
        run("losetup", "--detach", device, status=None)
