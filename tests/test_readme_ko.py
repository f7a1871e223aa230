"""README.ko.md is the README in Korean: what a program can compare is the same in both.

A change of one that the other doesn't have fails here, chapter by chapter: code, inline code,
figures, links and the shape of tables. test_readme.py checks where the links of both lead.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

import pytest

from harness import ROOT

KOREAN = re.compile(r"[\uac00-\ud7a3]")
NUMBER = re.compile(r"(?<![\w.])\d+(?:[.,]\d+)*")


@dataclass(frozen=True)
class Chapter:
    """A heading, its level, and the lines below it, code apart from prose."""

    title: str
    level: int
    code: tuple[str, ...]
    prose: tuple[str, ...]

    @property
    def text(self) -> str:
        return "\n".join(self.prose)

    @property
    def spans(self) -> Counter[str]:
        """Inline code, whose line breaks do not count."""
        return Counter(" ".join(span.split()) for span in re.findall(r"`([^`]+)`", self.text))

    @property
    def numbers(self) -> Counter[str]:
        return Counter(NUMBER.findall(re.sub(r"`[^`]+`|\(.*?//.*?\)", " ", self.text)))

    @property
    def targets(self) -> list[str]:
        return re.findall(r"\]\(([^)]+)\)", self.text)

    @property
    def rows(self) -> list[list[str]]:
        """The cells of all tables."""
        lines = [line for line in self.prose if line.startswith("|")]
        return [re.split(r" \| ", line.strip("| ")) for line in lines]


def chapters(name: str) -> list[Chapter]:
    found: list[Chapter] = []
    title, level, code, prose, fenced = "", 0, [""] * 0, [""] * 0, False
    for line in (*(ROOT / name).read_text().splitlines(), "# end"):
        if line.startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            code.append(line)
        elif heading := re.match(r"(#+) (.*)", line):
            found.append(Chapter(title, level, tuple(code), tuple(prose)))
            title, level, code, prose = heading[2], len(heading[1]), [], []
        else:
            prose.append(line)
    return found[1:]


ENGLISH, TRANSLATED = chapters("README.md"), chapters("README.ko.md")
PAIRS = [
    pytest.param(one, other, id=one.title) for one, other in zip(ENGLISH, TRANSLATED, strict=False)
]


def test_both_have_the_same_chapters() -> None:
    assert [one.level for one in TRANSLATED] == [one.level for one in ENGLISH]
    assert all(KOREAN.search(one.title) for one in TRANSLATED)


@pytest.mark.parametrize(("english", "korean"), PAIRS)
def test_a_chapter_has_the_same_code(english: Chapter, korean: Chapter) -> None:
    assert len(korean.code) == len(english.code)
    for ours, theirs in zip(korean.code, english.code, strict=True):
        kept = KOREAN.split(ours)[0]  # all of it, but for what is explained beside code
        assert theirs.startswith(kept.rstrip()), ours
        assert kept == ours or re.match(r" +[\w./-]+  ", ours), ours


@pytest.mark.parametrize(("english", "korean"), PAIRS)
def test_a_chapter_has_the_same_names_figures_and_links(english: Chapter, korean: Chapter) -> None:
    assert korean.spans == english.spans
    assert korean.numbers == english.numbers
    languages = {"README.md", "README.ko.md"}
    assert sorted({*korean.targets} - languages) == sorted({*english.targets} - languages)


@pytest.mark.parametrize(("english", "korean"), PAIRS)
def test_a_chapter_has_the_same_tables(english: Chapter, korean: Chapter) -> None:
    assert [len(row) for row in korean.rows] == [len(row) for row in english.rows]
    for ours, theirs in zip(korean.rows, english.rows, strict=True):
        for cell, original in zip(ours, theirs, strict=True):
            if re.fullmatch(r"`[^`]+`", original):
                assert cell == original


def test_everything_is_translated() -> None:
    for chapter in TRANSLATED:
        for line in chapter.prose:
            bare = re.sub(r"`[^`]*`|\]\(.*?\)|\"[^\"]*\"", "", line)
            words = re.findall(r"[A-Za-z]{2,}", bare)
            assert KOREAN.search(line) or len(words) < 4, line
