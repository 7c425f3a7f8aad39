"""Directories of the scratch share: depth, counts of everything below, renames, change notices and short names."""

import random
import sys

import pytest

from meshfs import limits
from meshfs.errors import StatusError
from meshfs.exporter.rules.scratch.tree import ScratchFile
from meshfs.exporter.rules.scratch.volume import ScratchVolume
from meshfs.smb import info
from meshfs.smb.constants import CreateDisposition, CreateOptions, NotifyFilter, NtStatus
from meshfs.smb.messages import CreateRequest
from support.scratch import files

D = CreateDisposition
DEEPEST = limits.SCRATCH_DEPTH_MAX


class FakeOpen:
    access = share_access = 7

    def __init__(self, file: ScratchFile) -> None:
        self.file = file
        self.told: list[tuple[int, str, bool]] = []
        file.add_open(self)

    def changed(self, what: int, action: int, name: str, *, below: bool) -> None:
        self.told.append((action, name, below))

    def deleted(self) -> None:
        self.told.append((0, "deleted", False))


@pytest.fixture
def volume() -> ScratchVolume:
    return ScratchVolume(1000, 100)


def make(volume: ScratchVolume, path: str, *, folder: bool = False, how: int = D.CREATE) -> ScratchFile:
    options = CreateOptions.DIRECTORY_FILE if folder else 0
    return volume.create(CreateRequest(path, 3, 7, how, options), 200).file


def mkdir(volume: ScratchVolume, path: str) -> ScratchFile:
    return make(volume, path, folder=True)


def find(volume: ScratchVolume, path: str) -> ScratchFile:
    return make(volume, path, how=D.OPEN)


def refusal(call, *arguments, **named) -> int:
    with pytest.raises(StatusError) as caught:
        call(*arguments, **named)
    return caught.value.status


def path_of(depth: int, name: str = "d") -> str:
    return "\\".join([name] * depth)


def nest(volume: ScratchVolume, depth: int, name: str = "d") -> None:
    for each in range(1, depth + 1):
        mkdir(volume, path_of(each, name))


def check(volume: ScratchVolume) -> None:
    """Check that the counts of each directory are what a walk over everything finds."""
    for directory in (volume.root, *files(volume)):
        below = [file for file in files(volume) if directory in file.above()]
        depths = [file.depth - directory.depth for file in below if file.is_directory]
        assert directory.opens_below == sum(len(file.opens) for file in below)
        assert directory.height == max(depths, default=0)


# --- depth -----------------------------------------------------------------------------


def test_directories_nest_as_deep_as_the_limit_says(volume: ScratchVolume) -> None:
    nest(volume, DEEPEST)
    deepest = find(volume, path_of(DEEPEST))
    assert (deepest.depth, deepest.path) == (DEEPEST, path_of(DEEPEST))
    assert refusal(mkdir, volume, path_of(DEEPEST + 1)) == NtStatus.NAME_TOO_LONG
    file = make(volume, path_of(DEEPEST) + "\\file")
    assert file.path == path_of(DEEPEST) + "\\file"
    assert refusal(make, volume, path_of(DEEPEST + 1) + "\\file") == NtStatus.NAME_TOO_LONG
    assert volume.root.height == DEEPEST
    check_depth(volume)


def test_a_path_of_many_names_is_refused_before_it_is_walked(volume: ScratchVolume) -> None:
    mkdir(volume, "a")
    assert find(volume, "a\\..\\a\\.\\..\\a").path == "a"
    assert refusal(find, volume, "a\\..\\" * 5000 + "a") == NtStatus.NAME_TOO_LONG


def test_a_moved_directory_takes_its_depth_along(volume: ScratchVolume) -> None:
    nest(volume, 20, "a")
    nest(volume, DEEPEST - 19, "b")
    top = find(volume, "a")
    assert (
        refusal(volume.rename, top, path_of(DEEPEST - 19, "b") + "\\a", overwrite=False, now=1)
        == NtStatus.NAME_TOO_LONG
    )
    volume.rename(top, path_of(DEEPEST - 20, "b") + "\\a", overwrite=False, now=1)
    assert volume.root.height == DEEPEST
    check(volume)
    # The deepest file is removed, and the rest may move deeper.
    lowest = next(file for file in files(volume) if file.depth == DEEPEST)
    volume.set_disposition(lowest, delete=True)
    volume.close(lowest, FakeOpen(lowest), delete=True, now=1)
    volume.rename(top, path_of(DEEPEST - 19, "b") + "\\a", overwrite=False, now=1)
    check(volume)


def test_no_operation_needs_the_stack_for_depth(volume: ScratchVolume, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SCRATCH_DEPTH_MAX", 3 * sys.getrecursionlimit())
    directory = volume.root
    for _ in range(2 * sys.getrecursionlimit()):
        below = ScratchFile("d", directory, 0, 0, folder=True)
        directory.attach(below, "d")
        directory = below
        if directory.depth % 500 == 0:
            watcher = FakeOpen(directory)
            volume.watch(directory, watcher)
    assert volume.root.height == directory.depth == 2 * sys.getrecursionlimit()
    assert len(directory.path) == 4 * sys.getrecursionlimit() - 1
    volume.close(directory, FakeOpen(directory), delete=True, now=1)
    assert volume.root.opens_below == 4
    assert [each[0] for each in watcher.told] == [0]


# --- renames ---------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["a\\b\\c\\new", "a\\new", "A\\B\\new", "a\\b\\c", "a\\b"])
def test_a_directory_does_not_move_into_itself(volume: ScratchVolume, target: str) -> None:
    for path in ("a", "a\\b", "a\\b\\c"):
        mkdir(volume, path)
    before = [file.path for file in files(volume)]
    assert refusal(volume.rename, find(volume, "a"), target, overwrite=True, now=1) == NtStatus.ACCESS_DENIED
    assert [file.path for file in files(volume)] == before
    check(volume)


def test_what_is_open_below_keeps_a_directory_in_its_place(volume: ScratchVolume) -> None:
    for path in ("a", "a\\b", "a\\b\\c", "other"):
        mkdir(volume, path)
    opened = FakeOpen(make(volume, "a\\b\\c\\file"))
    for name in ("a", "a\\b", "a\\b\\c"):
        assert refusal(volume.rename, find(volume, name), "new", overwrite=False, now=1) == NtStatus.ACCESS_DENIED
    # The file itself moves, and its size and counts with it.
    volume.rename(opened.file, "other\\file", overwrite=False, now=1)
    assert (find(volume, "a").opens_below, find(volume, "other").opens_below) == (0, 1)
    volume.rename(find(volume, "a"), "new", overwrite=False, now=1)
    assert find(volume, "new\\b\\c").path == "new\\b\\c"
    volume.rename(find(volume, "new\\b"), "b", overwrite=False, now=1)
    volume.close(opened.file, opened, delete=False, now=1)
    check(volume)


def test_an_open_file_has_the_path_that_its_directories_have_now(volume: ScratchVolume) -> None:
    for path in ("a", "a\\b"):
        mkdir(volume, path)
    file = make(volume, "a\\b\\file")
    volume.rename(find(volume, "a\\b"), "A\\renamed", overwrite=False, now=1)
    opened = FakeOpen(file)
    assert file.path == "a\\renamed\\file"
    assert refusal(find, volume, "a\\b\\file") == NtStatus.OBJECT_PATH_NOT_FOUND
    volume.close(file, opened, delete=True, now=1)
    assert [each.path for each in files(volume)] == ["a", "a\\renamed"]
    check(volume)


def test_only_an_empty_directory_is_deleted(volume: ScratchVolume) -> None:
    for path in ("a", "a\\b", "a\\b\\c"):
        mkdir(volume, path)
    for path in ("a", "a\\b"):
        directory = find(volume, path)
        assert refusal(volume.set_disposition, directory, delete=True) == NtStatus.DIRECTORY_NOT_EMPTY
        volume.close(directory, FakeOpen(directory), delete=True, now=1)
        assert not directory.delete_pending
    for path in ("a\\b\\c", "a\\b", "a"):
        directory = find(volume, path)
        volume.close(directory, FakeOpen(directory), delete=True, now=1)
    assert files(volume) == []
    check(volume)


@pytest.mark.parametrize("seed", range(20))
def test_counts_are_right_whatever_happens(volume: ScratchVolume, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    monkeypatch.setattr(limits, "SCRATCH_DEPTH_MAX", 5)
    rng = random.Random(seed)
    opens: list[FakeOpen] = []
    done = 0
    for step in range(300):
        existing = ["", *(file.path for file in files(volume))]
        target = f"{rng.choice(existing)}\\{rng.choice('abcd')}".removeprefix("\\")
        try:
            match rng.randrange(5):
                case 0 | 1:
                    make(volume, target, folder=rng.random() < 0.7)
                case 2:
                    opens.append(FakeOpen(find(volume, rng.choice(existing))))
                case 3:
                    volume.rename(find(volume, rng.choice(existing)), target, overwrite=True, now=step)
                case 4 if opens:
                    opened = opens.pop(rng.randrange(len(opens)))
                    volume.close(opened.file, opened, delete=rng.random() < 0.7, now=step)
            done += 1
        except StatusError:
            pass
        if step % 50 == 0:
            check_depth(volume)
    check_depth(volume)
    assert done > 50


def check_depth(volume: ScratchVolume) -> None:
    check(volume)
    assert all(file.depth <= limits.SCRATCH_DEPTH_MAX + (not file.is_directory) for file in files(volume))


# --- what is told ----------------------------------------------------------------------


def test_a_change_is_told_in_its_directory_and_above(volume: ScratchVolume) -> None:
    for path in ("a", "a\\b", "other"):
        mkdir(volume, path)
    watchers = {path: FakeOpen(find(volume, path)) for path in ("", "a", "a\\b", "other")}
    for opened in watchers.values():
        volume.watch(opened.file, opened)
    file = make(volume, "a\\b\\file")
    assert watchers[""].told == [(1, "a\\b\\file", True)]
    assert watchers["a"].told == [(1, "b\\file", True)]
    assert watchers["a\\b"].told == [(1, "file", False)]
    assert watchers["other"].told == []
    volume.modified(file, int(NotifyFilter.ATTRIBUTES))
    assert watchers["a"].told[-1] == (3, "b\\file", True)
    volume.close(watchers["a"].file, watchers["a"], delete=False, now=1)
    volume.modified(file, int(NotifyFilter.ATTRIBUTES))
    assert len(watchers["a"].told) == 2
    assert len(watchers[""].told) == 3


def test_those_who_watch_a_directory_that_is_to_be_deleted_are_told(volume: ScratchVolume) -> None:
    by_disposition, at_its_close = mkdir(volume, "a"), mkdir(volume, "b")
    for directory in (by_disposition, at_its_close):
        watcher, deleting = FakeOpen(directory), FakeOpen(directory)
        volume.watch(directory, watcher)
        if directory is by_disposition:
            volume.set_disposition(directory, delete=True)
        else:
            volume.close(directory, deleting, delete=True, now=1)
        assert watcher.told == [(0, "deleted", False)]


def test_watchers_are_limited(volume: ScratchVolume, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SCRATCH_WATCHERS_MAX", 2)
    opens = [FakeOpen(volume.root) for _ in range(3)]
    for opened in opens[:2]:
        volume.watch(volume.root, opened)
    assert refusal(volume.watch, volume.root, opens[2]) == NtStatus.INSUFFICIENT_RESOURCES
    volume.close(volume.root, opens[0], delete=False, now=1)
    volume.watch(volume.root, opens[2])


# --- short names -----------------------------------------------------------------------


def test_a_short_name_finds_one_file_and_goes_with_it(volume: ScratchVolume) -> None:
    file = make(volume, "a-long-name")
    short = file.short_name
    assert (short, find(volume, short), find(volume, short.lower())) == (info.short_name("a-long-name"), file, file)
    volume.rename(file, "another-long-name", overwrite=False, now=1)
    assert refusal(find, volume, short) == NtStatus.OBJECT_NAME_NOT_FOUND
    assert find(volume, file.short_name) is file
    volume.close(file, FakeOpen(file), delete=True, now=1)
    assert refusal(find, volume, file.short_name) == NtStatus.OBJECT_NAME_NOT_FOUND


def test_a_files_own_name_goes_before_anothers_short_name(volume: ScratchVolume) -> None:
    first = make(volume, "a-long-name")
    own = volume.create(CreateRequest("unrelated", 3, 7, D.CREATE, 0), 200).file
    volume.rename(own, first.short_name.lower(), overwrite=True, now=1)
    # The name leads to the file that has this short name, and a rename replaces it.
    assert [file.name for file in files(volume)] == [own.name]
    late = make(volume, "a-long-name")
    assert (own.short_name, late.short_name) == (info.short_name(own.name), "")
    assert find(volume, own.name) is own


def test_two_names_of_one_short_name(volume: ScratchVolume, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshfs.exporter.rules.scratch.tree.short_name", lambda name: "SAME~1")
    one, two = make(volume, "one"), make(volume, "two")
    assert (one.short_name, two.short_name) == ("SAME~1", "")
    volume.close(one, FakeOpen(one), delete=True, now=1)
    assert refusal(find, volume, "SAME~1") == NtStatus.OBJECT_NAME_NOT_FOUND
    three = make(volume, "three")
    assert find(volume, "SAME~1") is three
