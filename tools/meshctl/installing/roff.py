"""Text in the language of manual pages: roff with the macros of man(7). Pure."""

import re
from collections.abc import Iterable, Sequence

from meshfs import __version__

#: A word of an option, a program or a file keeps its hyphens when it is copied from the page.
_SPECIAL = {"\\": "\\e", "-": "\\-", "^": "\\(ha", "~": "\\(ti", "`": "\\(ga"}
#: Lines are not stretched to the right margin, because words of programs and paths are long.
RAGGED = ".ad l"
_INLINE = re.compile(
    r"\*\*(?P<strong>[^*]+)\*\*|`(?P<code>[^`]+)`|\[(?P<link>[^\]]+)\]\([^)]*\)|\*(?P<slanted>[^*\s]+)\*"
)


def escaped(text: str) -> str:
    """Return the text without special meaning, also at the beginning of a line."""
    found = "".join(_SPECIAL.get(letter, letter) for letter in text)
    return re.sub(r"^([.'])", r"\\&\1", found, flags=re.MULTILINE)


def bold(text: str) -> str:
    return f"\\fB{escaped(text)}\\fR" if text else ""


def slanted(text: str) -> str:
    return f"\\fI{escaped(text)}\\fR" if text else ""


def title(name: str, section: int, manual: str) -> str:
    # The page has no date. So the same version always gives the same page.
    return f'.TH "{escaped(name)}" "{section}" "" "meshfs {__version__}" "{manual}"'


def heading(text: str) -> str:
    return f'.SH "{escaped(text.upper())}"'


def subheading(text: str) -> str:
    return f'.SS "{escaped(text)}"'


def paragraph(text: str) -> str:
    """Return a paragraph, whose ``text`` is roff already."""
    return f".PP\n{text}"


def definition(term: str, text: str) -> str:
    """Return an item of a list. ``term`` and ``text`` are roff already."""
    return f".TP\n{term}\n{text}"


def bullet(text: str) -> str:
    return f".IP \\(bu 2\n{text}"


def example(lines: Iterable[str]) -> str:
    """Return lines that are shown as they are."""
    shown = [escaped(line) or "\\&" for line in lines]
    return "\n".join([".PP", ".RS 4", ".nf", *shown, ".fi", ".RE"])


def inline(text: str) -> str:
    """Turn the marks of Markdown within a line into roff: bold, slanted, code and links."""
    parts, end = [], 0
    for found in _INLINE.finditer(text):
        parts.append(escaped(text[end : found.start()]))
        strong = found["strong"] or found["code"]
        parts.append(bold(strong) if strong else slanted(found["slanted"] or "") + escaped(found["link"] or ""))
        end = found.end()
    joined = "".join([*parts, escaped(text[end:])])
    # A part that begins with a dot is no beginning of a line.
    return joined if joined.startswith("\\&") or not joined.startswith(".") else f"\\&{joined}"


def of_markdown(page: str) -> list[str]:
    """Return the parts of a page that is written in Markdown. Its title, the first heading, is left out.

    The function knows the Markdown of the pages in docs/: headings, paragraphs, code, lists with bullets, and tables.
    """
    parts: list[str] = []
    lines = page.splitlines()
    at = 0
    while at < len(lines):
        block, after = _block(lines, at)
        parts += _part(block)
        at = after
    return parts


def _block(lines: Sequence[str], at: int) -> tuple[list[str], int]:
    """Return the block that starts at a line, and the number of the line after the block."""
    first = lines[at]
    end = at + 1
    if first.startswith("```"):
        while end < len(lines) and not lines[end].startswith("```"):
            end += 1
        return list(lines[at:end]), end + 1
    if first.startswith("    "):
        while end < len(lines) and (lines[end].startswith("    ") or (not lines[end].strip() and _goes_on(lines, end))):
            end += 1
        return list(lines[at:end]), end
    if first.startswith(("#", "|")) or not first.strip():
        return [first], end
    while end < len(lines) and lines[end].strip() and not lines[end].startswith(("- ", "#", "```", "|")):
        end += 1
    return list(lines[at:end]), end


def _goes_on(lines: Sequence[str], empty: int) -> bool:
    """Return whether indented code goes on after an empty line."""
    return empty + 1 < len(lines) and lines[empty + 1].startswith("    ")


def _part(block: Sequence[str]) -> list[str]:
    first = block[0]
    if not first.strip() or first.startswith("# ") or re.fullmatch(r"[|\- ]+", first):
        return []
    if first.startswith("```"):
        return [example(block[1:])]
    if first.startswith("    "):
        return [example(line[4:] for line in block)]
    if first.startswith("## "):
        return [heading(first.removeprefix("## "))]
    if first.startswith("#"):
        return [subheading(first.lstrip("# "))]
    text = " ".join(line.strip() for line in block)
    if first.startswith("|"):
        term, *cells = [cell.strip() for cell in text.strip("|").split("|")]
        return [definition(inline(term), inline("; ".join(cells)))]
    return [bullet(inline(text.removeprefix("- "))) if first.startswith("- ") else paragraph(inline(text))]
