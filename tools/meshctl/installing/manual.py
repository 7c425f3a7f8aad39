"""Make the manual pages from what the programs themselves say: their parsers, the table of options, and config.md.

meshctl(8), meshfsd(8)    from the parsers that also print --help
meshfs(8)                 from the table that `meshfs --help` prints (meshfs/mount/usage.py)
cluster.toml(5)           from docs/admin/config.md
"""

import argparse
from collections.abc import Iterable, Iterator

from meshctl.arguments import is_help, keeps_lines, sections_of, text_of, value_name, verbs_of
from meshctl.installing import roff
from meshfs.mount import usage

_ADMINISTRATION = "System Administration"
_FILES = (
    ("/etc/meshfs/cluster.toml", "the config of the cluster, see cluster.toml(5)"),
    ("/etc/meshfs/keys", 'the keys of the nodes, if the config says keys = "keys"'),
    ("/var/lib/meshfs/NODE", "what the exporter of a node keeps, if its unit starts it"),
)
_PROGRAMS = ("meshctl", "meshfsd")
_PAGES = ("meshctl(8)", "meshfsd(8)", "meshfs(8)", "cluster.toml(5)")


def pages(meshctl: argparse.ArgumentParser, meshfsd: argparse.ArgumentParser, config_page: str) -> dict[str, str]:
    """Return the pages by their path below the folder of manual pages."""
    return {
        "man8/meshctl.8": _joined(_of_parser(meshctl, 8, "look after a mesh of disks")),
        "man8/meshfsd.8": _joined(_of_parser(meshfsd, 8, "serve a node's disks to the cluster")),
        "man8/meshfs.8": _joined(_of_mount()),
        "man8/mount.meshfs.8": ".so man8/meshfs.8\n",
        "man5/cluster.toml.5": _joined(_of_config(config_page)),
    }


def _joined(parts: Iterator[str]) -> str:
    """Return the page. A paragraph right after a heading needs no macro of its own."""
    lines: list[str] = []
    for part in parts:
        after_heading = bool(lines) and lines[-1].startswith((".SH", ".SS"))
        lines.append(part.removeprefix(".PP\n") if after_heading else part)
    return "\n".join(lines) + "\n"


def _head(name: str, section: int, about: str, manual: str) -> list[str]:
    shown = f"{roff.escaped(name)} \\- {roff.escaped(about)}"
    return [roff.title(name.upper(), section, manual), roff.RAGGED, roff.heading("Name"), shown]


def _tail(name: str) -> list[str]:
    files = [roff.definition(roff.slanted(path), roff.escaped(text)) for path, text in _FILES]
    others = ", ".join(roff.bold(page.partition("(")[0]) + "(" + page[-2:] for page in _PAGES if page != name)
    return [roff.heading("Files"), *files, roff.heading("See also"), others]


def _of_parser(parser: argparse.ArgumentParser, section: int, about: str) -> Iterator[str]:
    yield from _head(parser.prog, section, about, _ADMINISTRATION)
    verbs = verbs_of(parser)
    yield roff.heading("Synopsis")
    yield _lines(f"{parser.prog} {verb} ..." for verb in verbs) if verbs else _emphasised(_synopsis(parser))
    yield roff.heading("Description")
    yield roff.escaped(parser.description or "")
    yield roff.heading("Options")
    yield from _arguments(parser)
    if verbs:
        yield roff.heading("Verbs")
    for name, verb in verbs.items():
        yield roff.subheading(f"{parser.prog} {name}")
        yield _emphasised(_synopsis(verb.parser))
        yield roff.paragraph(roff.escaped(f"{verb.help[:1].upper()}{verb.help[1:]}."))
        yield from _arguments(verb.parser)
        yield from _epilog(verb.parser)
    yield from _epilog(parser)
    yield from _tail(f"{parser.prog}({section})")


def _synopsis(parser: argparse.ArgumentParser) -> str:
    """Return the usage in one line."""
    return " ".join(parser.format_usage().removeprefix("usage: ").split())


def _lines(synopses: Iterable[str]) -> str:
    return "\n.br\n".join(map(_emphasised, synopses))


def _emphasised(synopsis: str) -> str:
    program, _, rest = synopsis.partition(" ")
    return f"{roff.bold(program)} {roff.escaped(rest)}"


def _arguments(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield the arguments of a parser, group by group. Groups of the parser's own have their titles.

    Every verb has the option -h. The page names it once, with the options of the program.
    """
    for title, actions in sections_of(parser):
        if title:
            yield roff.paragraph(f"{roff.escaped(title[:1].upper() + title[1:])}:")
        for action in actions if parser.prog in _PROGRAMS else [each for each in actions if not is_help(each)]:
            yield roff.definition(_term(action), roff.escaped(text_of(parser, action)))


def _term(action: argparse.Action) -> str:
    value = "" if action.nargs == 0 else roff.slanted(value_name(action))
    if not action.option_strings:
        return value
    return ", ".join(f"{roff.bold(name)} {value}".rstrip() for name in action.option_strings)


def _epilog(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield the text after the options. The exit status has a heading of its own, as in all manual pages."""
    epilog = (parser.epilog or "").strip()
    if epilog.startswith("Exit status: "):
        yield roff.heading("Exit status")
        yield roff.escaped(epilog.removeprefix("Exit status: "))
    elif keeps_lines(parser):
        yield roff.example(epilog.splitlines())
    elif epilog:
        yield roff.paragraph(roff.escaped(" ".join(epilog.split())))


def _of_mount() -> Iterator[str]:
    yield from _head("meshfs", 8, "mount the disks of all nodes of a cluster", _ADMINISTRATION)
    yield roff.heading("Synopsis")
    yield _lines(usage.SYNOPSIS)
    yield roff.heading("Description")
    yield roff.escaped(usage.DESCRIPTION)
    for described in (*usage.ARGUMENTS, *usage.FLAGS):
        yield roff.definition(roff.bold(described.name), roff.escaped(described.help))
    yield roff.heading("Mount options")
    for described in usage.OPTIONS:
        value = f"={roff.slanted(described.value)}" if described.value else ""
        yield roff.definition(f"{roff.bold(described.name)}{value}", roff.escaped(described.help))
    yield roff.definition(", ".join(map(roff.bold, usage.COMMON_OPTIONS)), "as in mount(8) and mount.fuse3(8)")
    yield roff.heading("Exit status")
    yield roff.escaped(usage.EXIT_STATUS)
    yield from _tail("meshfs(8)")


def _of_config(page: str) -> Iterator[str]:
    yield from _head("cluster.toml", 5, "the config of a meshfs cluster", "File Formats")
    yield roff.heading("Description")
    yield from roff.of_markdown(page)
    yield from _tail("cluster.toml(5)")
