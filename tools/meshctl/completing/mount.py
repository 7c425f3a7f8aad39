"""Find the words that may follow on the command line of meshfs and mount.meshfs. Pure."""

from collections.abc import Sequence
from pathlib import Path

from meshctl.completing.candidates import Candidate, Candidates, Known, of_names
from meshfs.mount import usage


def complete(words: Sequence[str], known: Known) -> Candidates:
    """Return what the last of ``words`` may become. The others precede it, without the program's name."""
    *before, current = words
    found = Candidates()
    paths = [word for word, previous in zip(before, ["", *before], strict=False) if _is_path(word, previous)]
    if before and before[-1] == "-o":
        _add_options(current, Path(paths[0]) if paths else None, known, found)
    elif current.startswith("-"):
        flags = [Candidate(flag.name.rpartition(" ")[2], flag.help) for flag in usage.FLAGS]
        found.add([*flags, Candidate("-o", "options")], current)
    elif len(paths) < len(usage.ARGUMENTS):
        found.files = True
    else:
        found.add([Candidate("-o", "options")], current)
    return found


def _is_path(word: str, previous: str) -> bool:
    return not word.startswith("-") and previous != "-o"


def _add_options(current: str, config: Path | None, known: Known, found: Candidates) -> None:
    """Add the options that may follow within a list like node=n1,ro."""
    done, comma, option = current.rpartition(",")
    name, equals, value = option.partition("=")
    described = {each.name: each for each in usage.OPTIONS}
    if not equals:
        names = [Candidate(f"{each.name}=" if each.value else each.name, each.help) for each in usage.OPTIONS]
        found.add([*names, *map(Candidate, usage.COMMON_OPTIONS)], option, done + comma)
    elif name in described:
        choices = [Candidate(choice) for choice in described[name].choices]
        found.add([*choices, *of_names(described[name].value, known, config)], value, f"{done}{comma}{name}=")
