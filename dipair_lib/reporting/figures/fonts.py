"""Fonts of figures: names of tasks and models in other scripts than Latin, Greek and Cyrillic are drawn in a
font that has them where one is installed, else spelt out in Latin letters, roughly. Tables have every name as
it is.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Collection

import matplotlib

FIRST = "DejaVu Sans"  # matplotlib's own
# Of the systems that people use: Chinese, Japanese and Korean; then Indian scripts, Arabic, Hebrew and Thai.
OTHERS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Noto Sans JP", "Noto Sans KR", "Source Han Sans SC", "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei", "Droid Sans Fallback", "PingFang SC", "Hiragino Sans", "Apple SD Gothic Neo", "Microsoft YaHei", "Yu Gothic",
    "Malgun Gothic", "SimHei", "IPAexGothic", "NanumGothic", "Noto Sans Devanagari", "Noto Sans Bengali", "Noto Sans Tamil",
    "Lohit Devanagari", "Lohit Bengali", "Lohit Tamil", "Nirmala UI", "Kohinoor Devanagari", "Noto Sans Arabic", "Noto Sans Hebrew",
    "Noto Sans Thai", "Loma", "Leelawadee UI", "Thonburi", "Arial Unicode MS", "FreeSans", "Unifont",
)  # fmt: skip


def families(installed: Collection[str] | None = None) -> list[str]:
    """The fonts to look a character up in, one after the other.

    Args:
        installed: names of fonts; by default those that matplotlib finds.
    """
    if installed is None:
        from matplotlib.font_manager import fontManager

        installed = {font.name for font in fontManager.ttflist}
    return [FIRST, *(name for name in OTHERS if name in installed)]


def use() -> None:
    """Draw with them from now on, unless somebody chose a font."""
    if matplotlib.rcParams["font.family"] == ["sans-serif"]:
        matplotlib.rcParams["font.family"] = families()


@functools.cache
def glyphs() -> frozenset[int]:
    """The characters that some font of ``families`` has."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    found: set[int] = set()
    for name in families():
        found.update(get_font(findfont(FontProperties(family=name))).get_charmap())
    return frozenset(found)


def drawable(text: str) -> str:
    """A text of which every character can be drawn: without a glyph, its name in Unicode stands for it ("हि"
    is "hai", "한" is "han"), of a Chinese character its number.
    """
    if all(ord(c) in glyphs() or c.isspace() for c in text):
        return text
    return "".join(c if ord(c) in glyphs() or c.isspace() else spelt(c) for c in text)


def spelt(character: str) -> str:
    """A character in Latin letters."""
    name = unicodedata.name(character, "")
    if found := re.search(r"IDEOGRAPH-([0-9A-F]+)$", name):
        return f"[{found[1]}]"
    if unicodedata.category(character) in {"Cf", "Mn"} and "VOWEL" not in name:
        return ""
    found = re.search(r"(?:LETTER|SYLLABLE|CHARACTER|VOWEL SIGN|DIGIT) (?:SMALL )?(.+)$", name)
    return found[1].lower().split(" ")[-1] if found else "?"
