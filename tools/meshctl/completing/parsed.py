"""Find the words that may follow on the command line of a program that argparse parses. Pure."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from meshctl.arguments import is_help, options_of, positionals_of, text_of, value_name, verbs_of
from meshctl.completing.candidates import Candidate, Candidates, Known, of_names

_ANY_NUMBER = ("*", "+", argparse.REMAINDER)


def complete(parser: argparse.ArgumentParser, words: Sequence[str], known: Known) -> Candidates:
    """Return what the last of ``words`` may become. The others precede it, without the program's name."""
    verbs = verbs_of(parser)
    *before, current = words
    found = Candidates()
    if not verbs:
        _complete_arguments(parser, before, current, known, found)
        return found
    for name, verb in verbs.items():
        parts = name.split()
        if len(parts) > len(before) and parts[: len(before)] == before:
            is_last = len(parts) == len(before) + 1
            found.add([Candidate(parts[len(before)], verb.help if is_last else "")], current)
    # The longest name wins: `flows set` is a verb of its own, although `flows` is one as well.
    begun = [name for name in verbs if before[: len(name.split())] == name.split()]
    if begun:
        name = max(begun, key=len)
        _complete_arguments(verbs[name].parser, before[len(name.split()) :], current, known, found)
    elif not before and current.startswith("-"):
        found.add(_option_names(parser, []), current)
    return found


def _complete_arguments(
    parser: argparse.ArgumentParser, before: Sequence[str], current: str, known: Known, found: Candidates
) -> None:
    line = _Line(parser, before)
    option, equals, value = current.partition("=")
    if line.waiting is not None:
        _add_values(parser, line.waiting, line.config, current, "", known, found)
    elif equals and option in line.options and not line.only_values:
        _add_values(parser, line.options[option], line.config, value, f"{option}=", known, found)
    elif current.startswith("-") and not line.only_values:
        found.add(_option_names(parser, before), current)
    else:
        positional = line.next_positional()
        if positional is not None:
            _add_values(parser, positional, line.config, current, "", known, found)
        if not found and not current:
            found.add(_option_names(parser, before), current)


class _Line:
    """Is the part of a command line before the word that is completed."""

    def __init__(self, parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
        self.options = {name: action for action in options_of(parser) for name in action.option_strings}
        self.config: Path | None = None
        #: The option whose value comes next.
        self.waiting: argparse.Action | None = None
        #: True after the word "--".
        self.only_values = False
        self._positionals = positionals_of(parser)
        self._count = 0
        for word in words:
            self._take(word)

    def _take(self, word: str) -> None:
        option, equals, value = word.partition("=")
        if self.waiting is not None:
            self._take_value(self.waiting, word)
            self.waiting = None
        elif word == "--":
            self.only_values = True
        elif not self.only_values and option in self.options:
            action = self.options[option]
            if equals:
                self._take_value(action, value)
            elif action.nargs != 0:
                self.waiting = action
        elif self.only_values or not word.startswith("-"):
            positional = self.next_positional()
            if positional is not None:
                self._take_value(positional, word)
            self._count += 1

    def _take_value(self, action: argparse.Action, value: str) -> None:
        if action.dest == "config":
            self.config = Path(value)

    def next_positional(self) -> argparse.Action | None:
        """Return the positional argument that the next word belongs to. The last one may take several words."""
        for number, action in enumerate(self._positionals):
            if number == self._count or action.nargs in _ANY_NUMBER:
                return action
        return None


def _option_names(parser: argparse.ArgumentParser, before: Sequence[str]) -> list[Candidate]:
    """Return the options that may still be given, each by its longest name."""
    found = []
    for action in options_of(parser):
        again = isinstance(action, argparse._AppendAction)
        if again or is_help(action) or not set(action.option_strings) & set(before):
            found.append(Candidate(max(action.option_strings, key=len), text_of(parser, action)))
    return found


def _add_values(
    parser: argparse.ArgumentParser,
    action: argparse.Action,
    config: Path | None,
    current: str,
    prefix: str,
    known: Known,
    found: Candidates,
) -> None:
    if action.choices is not None:
        found.add([Candidate(str(choice)) for choice in action.choices], current, prefix)
        return
    if action.dest == "mountpoint":
        found.add(known.mount_points(), current, prefix)
    if action.type is Path or current.startswith(("/", "./", "../", "~")):
        found.files = True
        return
    if action.metavar is not None:
        found.add(of_names(value_name(action), known, config), current, prefix)
