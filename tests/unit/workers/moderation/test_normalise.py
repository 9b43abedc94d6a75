"""Folding a text, and finding the way back."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.moderation.normalise import Origin, fold

DISGUISES = [
    ("ｆｕｌｌ", "full"),
    ("fυсk", "fuck"),
    ("f\u200bu\u00adn", "fun"),
    ("f́ũn̷", "fun"),
    ("𝖋𝖚𝖓", "fun"),
    ("🅵🆄🅽", "FUN"),
    ("🇫🇺🇳", "FUN"),
    ("ⓕⓤⓝ", "fun"),
    ("straße", "strasse"),
    ("٣٤", "34"),
    ("“x”—y…", '"x"-y...'),
    ("a\ud800b", "ab"),
    ("😀", " "),
]


@pytest.mark.parametrize(("text", "folded"), DISGUISES)
def test_folding_shows_what_a_reader_sees(text: str, folded: str) -> None:
    """Case is kept: capitals matter to the finders of secrets and names."""
    assert fold(text) == folded


def test_a_right_to_left_override_is_read_both_ways() -> None:
    """The reader sees `fuck`; the archive would store a card number in logical order."""
    assert fold("\u202ekcuf\u202c") == "kcuf fuck"


def test_the_span_of_a_letter_includes_the_marks_behind_it() -> None:
    """A mask that left the marks would hang them on the placeholder."""
    text = "a f\u0301\u0302u\u200bn\u0336 b"
    folded = fold(text)
    start = folded.index("fun")
    assert Origin(text).span(start, start + 3) == (2, 9)
    assert text[9:] == " b"


def test_the_span_of_reversed_text_covers_it() -> None:
    text = "x \u202ekcuf\u202c y"
    folded = fold(text)
    start = folded.rindex("fuck")
    assert text[slice(*Origin(text).span(start, start + 4))] == "kcuf\u202c"


@given(st.text())
def test_every_folded_character_has_an_origin(text: str) -> None:
    """Whatever the text: each folded character leads into the original, and nothing outside it."""
    folded = fold(text)
    origin = Origin(text)
    for index in range(len(folded)):
        start, end = origin.span(index, index + 1)
        assert 0 <= start < end <= len(text)


@given(st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126)))
def test_printable_ascii_folds_to_itself(text: str) -> None:
    assert fold(text) == text


@given(st.text())
def test_folding_leaves_nothing_that_has_no_utf8_form(text: str) -> None:
    """The search libraries take UTF-8, and a lone surrogate has none."""
    fold(text).encode()
    assert "\x01" not in fold(text), "the separator of joined texts never comes from a text"


@pytest.mark.parametrize("seed", range(20))
def test_a_text_is_folded_character_by_character(seed: int) -> None:
    """Few odd characters are replaced one after the other: none may be replaced in what another one became."""
    rng = random.Random(seed)
    text = "".join(rng.choices("ab €\x02\x03¢é¼…ß\x00ﬁа\t", k=40))
    assert fold(text) == "".join(map(fold, text))
