"""A docstring as prose: its summary line and the passage that follows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from inspect import cleandoc

QUERY_WORDS = (3, 16)  # fewer is dropped, more is cut
PASSAGE_WORDS = (8, 28)


HEADING = re.compile(r"^[=\-~^*#\"'+.`_]{3,}(\s+[=\-]{3,})*$")
GOOGLE = re.compile(
    r"^(args?|arguments?|parameters?|params?|returns?|yields?|raises?|attributes?|examples?|example usages?|usage|"
    r"references?|see also|methods|keyword args|keyword arguments|other parameters|inputs?|outputs?|shape|warns|"
    r"options|properties|todo|call arguments|functions|classes|exceptions|variables|constants)\s*:\s*\S*$",
    re.IGNORECASE,
)
NUMPY_KEPT = {
    "notes",
    "note",
    "warnings",
    "description",
    "details",
    "extended summary",
    "overview",
    "introduction",
}
FIELD = re.compile(r"^\s*(:[\w ]+[^:`]*:(\s|$)|@\w+)")
BULLET = re.compile(r"^\s*([-*+\u2022]|\(?\d+[.)]|\(?[a-z]\))\s")
ROLE = re.compile(r":[\w:+.-]+:`([^`]*)`")
URL = re.compile(r"<?\b(?:https?|ftp)://[^\s>)\]]+>?|\bwww\.[^\s>)\]]+|\bdoi:\s*\S+")
CITATION = re.compile(r"\s*\[(?:#?\w{0,20}\d+\w?|#)\]_?")
LEFTOVER = re.compile(r">>>|\.\. |::|[{}|\\]|\$|%\(|=>|->|\]\(|[=~^_#*+-]{3,}|&\w+;")
SENTENCE_END = re.compile(r"(?<=[.!?])(?<!\be\.g\.)(?<!\bi\.e\.)(?<!\bcf\.)(?<!\bvs\.)\s+(?=[\"'(A-Z])")
WORD = re.compile(r"[^\W_]+")


def summary_and_passage(docstring: str) -> tuple[str, str] | str:
    """(summary, passage) of a docstring, or the reason why it has none.

    The summary is the first sentence of the first paragraph; the passage is the rest of the prose, without
    doctests, parameter tables, code, lists, directives, headings and addresses, markup reduced to its text.
    """
    paragraphs = list(prose(docstring))
    if not paragraphs:
        return "no prose"
    summary, *rest = SENTENCE_END.split(paragraphs[0], maxsplit=1)
    # a short line without a full stop is a heading
    passage = " ".join(
        rest + [p for p in paragraphs[1:] if len(p.split()) > 3 or p.endswith((".", "!", "?"))]
    )
    summary_words, passage_words = summary.split(), passage.split()
    if not QUERY_WORDS[0] <= len(summary_words) <= 40:
        return "summary too short or too long"
    if len(passage_words) < PASSAGE_WORDS[0]:
        return "no passage"
    summary = cut(summary_words, QUERY_WORDS[1])
    passage = cut(passage_words, PASSAGE_WORDS[1])
    if LEFTOVER.search(summary) or LEFTOVER.search(passage):
        return "markup or formula left"
    for text in (summary, passage):
        letters = sum(c.isascii() and c.isalpha() for c in text)
        if letters < 0.75 * sum(not c.isspace() for c in text):
            return "mostly not letters"
    inside = set(WORD.findall(summary.lower()))
    words = set(WORD.findall(passage.lower()))
    if len(words - inside) < 6 or len(inside & words) > 0.85 * len(inside):
        return "passage repeats the summary"
    return summary, passage


def cut(words: list[str], most: int) -> str:
    """The first `most` words; back to the last sentence end if that keeps two thirds of them."""
    if len(words) <= most:
        return " ".join(words)
    ends = [i for i in range(2 * most // 3, most) if words[i].endswith((".", "!", "?"))]
    return " ".join(words[: ends[-1] + 1 if ends else most])


def prose(docstring: str) -> Iterator[str]:
    """The paragraphs of a docstring that are prose, each on one line and free of markup."""
    skip_section = False  # inside a numpy section or a google block that is a table
    kept_section = False  # an indented block here is prose
    skip_below = -1  # drop deeper-indented paragraphs: what follows "::", a directive or a field
    fenced = False
    for paragraph in paragraphs(cleandoc(docstring)):
        if any(line.strip().startswith(("```", "~~~")) for line in paragraph):
            fences = sum(line.strip().startswith(("```", "~~~")) for line in paragraph)
            fenced ^= fences % 2 == 1
            continue
        if fenced:
            continue
        indent = len(paragraph[0]) - len(paragraph[0].lstrip())
        first = paragraph[0].strip()
        if len(paragraph) > 1 and HEADING.match(paragraph[1].strip()):
            kept_section = first.lower().rstrip(":") in NUMPY_KEPT
            skip_section = not kept_section and not is_title(docstring, first)
            skip_below = -1
            paragraph = paragraph[2:]
            if not paragraph or skip_section:
                continue
            first = paragraph[0].strip()
        elif indent == 0 and GOOGLE.match(first):
            skip_section, kept_section, skip_below = False, False, 0
            continue
        elif indent == 0 and first.lower().rstrip(":") in NUMPY_KEPT and first.endswith(":"):
            skip_section, kept_section, skip_below = False, True, -1
            paragraph = paragraph[1:]
            if not paragraph:
                continue
            first = paragraph[0].strip()
        if skip_section or (skip_below >= 0 and indent > skip_below):
            continue
        skip_below = -1
        if first.startswith("..") or FIELD.match(first) or BULLET.match(first):
            skip_below = indent
            continue
        if indent > 0 and not kept_section:
            continue
        lines = prose_lines(paragraph)
        if lines and lines[-1].endswith(":"):  # announces a list, a formula or code that is not kept
            skip_below = indent
        sentences = SENTENCE_END.split(plain(" ".join(lines)))
        if sentences[-1].endswith(":"):
            sentences.pop()
        if sentences and sentences[0]:
            yield " ".join(sentences)


def is_title(docstring: str, line: str) -> bool:
    """Whether an underlined line opens the docstring (a title, prose follows) rather than a section."""
    return docstring.strip().startswith(line)


def paragraphs(text: str) -> Iterator[list[str]]:
    lines: list[str] = []
    for line in text.splitlines():
        if line.strip():
            lines.append(line.rstrip())
        elif lines:
            yield lines
            lines = []
    if lines:
        yield lines


def prose_lines(paragraph: list[str]) -> list[str]:
    """The lines of a paragraph up to where a table, a list, a field or a doctest begins; none if it is a
    table.
    """
    kept: list[str] = []
    base = len(paragraph[0]) - len(paragraph[0].lstrip())
    for number, line in enumerate(paragraph):
        bare = line.strip()
        stops = bare.startswith((">>>", "..", "|", "+--", "$ ", "#", "\\")) or HEADING.match(bare)
        if stops or FIELD.match(line) or BULLET.match(line) or GOOGLE.match(bare):
            break
        if number and len(line) - len(line.lstrip()) > base + 1:
            break
        kept.append(bare)
    return kept


def plain(text: str) -> str:
    """One line of prose with roles, links, emphasis, backticks, citations and addresses reduced to their
    text.
    """
    text = ROLE.sub(lambda m: target(m[1]), text)
    text = re.sub(r"\[`?([^\[\]`]+)`?\]\([^()\s]*\)", r"\1", text)  # markdown link
    text = re.sub(r"\[`([^`]*)`\]", lambda m: target(m[1]), text)
    text = re.sub(r"``([^`]*)``", r"\1", text)
    text = re.sub(r"`([^`]*)`_{0,2}", lambda m: target(m[1]), text)
    text = URL.sub("", text)
    text = CITATION.sub("", text)
    text = re.sub(r"\*\*([^*]+)\*\*", r"\1", text)
    text = re.sub(r"(?<![\w*])\*([^*\s][^*]*)\*(?!\w)", r"\1", text)
    text = re.sub(r"</?[A-Za-z][\w-]*/?>", "", text)
    text = re.sub(r"::\s*$", ":", text)
    text = re.sub(r"\s+([.,;:)])(?=\s|$)", r"\1", text)
    return " ".join(text.replace("`", "").split())


def target(text: str) -> str:
    """What a reader sees of a role's or link's content: the title before <target>, the last part of ~a.b.c."""
    text = re.sub(r"\s*<[^<>]*>$", "", text) or text.strip("<>")
    text = text.strip()
    return text[1:].split(".")[-1] if text.startswith("~") else text.lstrip("!")
