"""Both languages have all texts, and every text that a page uses exists."""

from __future__ import annotations

import re
import string
from pathlib import Path

import pytest

from rempart.web import read_models
from rempart.web.pages import collect
from rempart.web.wording import LANGUAGES, Texts, choose, texts_of

WEB = Path(read_models.__file__).parents[1]


def fields(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def test_each_language_has_the_same_texts_with_the_same_places_to_fill() -> None:
    english = texts_of("en")
    for language in LANGUAGES:
        assert texts_of(language).keys() == english.keys()
        assert {key: fields(text) for key, text in texts_of(language).items()} == {
            key: fields(text) for key, text in english.items()
        }


def test_every_text_that_a_template_or_a_read_model_names_is_there() -> None:
    named: set[str] = set()
    for file in (WEB / "templates").glob("*.html"):
        named |= set(re.findall(r"""t\("([\w.-]+)"(?! ~)""", file.read_text(encoding="utf-8")))
    for file in (WEB / "read_models").glob("*.py"):
        named |= set(re.findall(r"""Message\(\s*"([\w.-]+)\"""", file.read_text(encoding="utf-8")))
    brought = {key for page in collect() for key in page.texts_in("en")}
    assert len(named) > 100 and not named - texts_of("en").keys() - brought


def test_each_page_brings_its_texts_in_each_language_and_replaces_none() -> None:
    for page in collect():
        keys = [page.texts_in(language).keys() for language in LANGUAGES]
        assert all(found == keys[0] for found in keys), page.name
        assert not keys[0] & texts_of("en").keys(), page.name


@pytest.mark.parametrize(
    ("seconds", "english", "french"),
    [(0, "0 s", "0 s"), (59.9, "59 s", "59 s"), (3660, "1 h 1 min", "1 h 1 min"), (90000, "1 d 1 h", "1 j 1 h")],
)
def test_a_length_of_time(seconds: float, english: str, french: str) -> None:
    assert (Texts("en").span(seconds), Texts("fr").span(seconds)) == (english, french)


def test_sizes_and_numbers_as_each_language_writes_them() -> None:
    assert (Texts("en").size(1_234_567), Texts("fr").size(1_234_567)) == ("1.2 MB", "1,2 Mo")
    assert (Texts("en").count(15402), Texts("fr").percent(0.125)) == ("15,402", "12,5 %")


def test_a_few_rows_of_many_are_not_shown_as_none() -> None:
    shares = (0.0, 10 / 29_622, 0.0005, None)
    assert [Texts("en").percent(share) for share in shares] == ["0.0 %", "< 0.1 %", "0.1 %", "not known"]
    assert Texts("fr").percent(1e-9) == "< 0,1 %"


@pytest.mark.parametrize(
    ("asked", "kept", "accepted", "expected"),
    [
        ("fr", "en", "en", "fr"),
        (None, "fr", "en", "fr"),
        (None, None, "de-DE, fr;q=0.8", "fr"),
        ("../etc", None, None, "en"),
    ],
)
def test_the_language_of_a_request(asked: str | None, kept: str | None, accepted: str | None, expected: str) -> None:
    assert choose(asked, kept, accepted) == expected


@pytest.mark.parametrize("language", ["en", "fr"])
def test_a_fact_of_the_policy_stands_within_a_sentence(language: str) -> None:
    told = Texts(language)("loss.shared", target="haven", fact="site 'a' and site 'b' both run on c")
    assert told.endswith(" (site 'a' and site 'b' both run on c).")
