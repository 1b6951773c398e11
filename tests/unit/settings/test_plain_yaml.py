"""A text in a YAML document is found without reading the rest, and equals the text in the parsed document."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from rempart.settings import plain_yaml

KEYS = st.sampled_from(["source", "prefix", "kind", "1", "x y"])
TEXTS = st.one_of(st.text(max_size=5), st.sampled_from(["a/", "2026-01-01"]))
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(-5, 5), TEXTS)
INNER = st.recursive(LEAVES, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner)))
VALUES = st.one_of(LEAVES, st.floats(), st.dates(), st.datetimes())
ANY_KEYS = st.one_of(KEYS, st.integers(0, 2), st.booleans(), st.sampled_from(["<<", "=", "on", "~"]))
ANYTHING = st.recursive(
    VALUES,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(ANY_KEYS, inner, max_size=4)),
    max_leaves=12,
)
DOCUMENTS = st.one_of(st.dictionaries(KEYS, INNER), INNER)


@given(DOCUMENTS, st.booleans())
def test_the_text_at_a_path_is_that_of_the_whole_document(document: Any, flow: bool) -> None:
    text = yaml.safe_dump({"name": "x", "source": document}, default_flow_style=flow, sort_keys=False)
    found: Any = plain_yaml.load(text)["source"]
    found = found.get("prefix") if isinstance(found, dict) else None
    assert plain_yaml.text_at(text, "source", "prefix") == (found if isinstance(found, str) else None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("base: &base {prefix: a/}\nsource: {<<: *base}\n", "a/"),
        ("here: &here a/\nsource: {prefix: *here}\n", "a/"),
        ("source: {prefix: 5}\n", None),
        ("source: {prefix: !!str 5}\n", "5"),
        ("source: [prefix]\n", None),
        ("source: {<<: {prefix: a/}}\n", "a/"),
        ("source: {prefix: ! a/}\n", "a/"),
        ("", None),
        ("source:\n  prefix: a/\nwrong: [\n", "a/"),
    ],
)
def test_aliases_numbers_and_what_is_wrong_further_down(text: str, expected: str | None) -> None:
    assert plain_yaml.text_at(text, "source", "prefix") == expected


def test_a_document_that_is_wrong_before_the_place_is_refused() -> None:
    with pytest.raises(yaml.YAMLError):
        plain_yaml.text_at("a: [\nsource: {prefix: a/}\n", "source", "prefix")


@pytest.mark.parametrize("text", ["{1: a, 0x1: b}", "{a: 1, 'a': 2}", "{? [1] : a, b: 2, b: 3}"])
def test_equal_keys_are_refused_however_they_are_written(text: str) -> None:
    with pytest.raises(yaml.YAMLError):
        plain_yaml.load(text)


@given(ANYTHING, st.sampled_from([None, True, False]), st.sampled_from([None, '"', "'"]))
def test_a_document_is_read_as_the_library_reads_it(document: Any, flow: bool | None, style: str | None) -> None:
    text = yaml.safe_dump(document, default_flow_style=flow, default_style=style, allow_unicode=True)
    assert repr(plain_yaml.load(text)) == repr(yaml.safe_load(text))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing\n",
        "--- \n",
        "a:\nb: ~\n",
        "a: 0x1F\nb: 1_000\nc: 1:30\nd: .inf\ne: 2026-11-27T10:00:00Z\n",
        "a: |\n  two\n  lines\nb: >-\n  one\n  line\n",
        "base: &base {x: 1}\nmore: {<<: *base, y: 2}\n",
        "a: !!str 5\nb: !!set {x, y}\nc: ! 5\n",
        "{5: a, true: b, ~: c, 2026-01-01: d}",
        "? a\n: b\n? c\n",
        "'<<': text\n",
    ],
)
def test_rare_forms_are_read_as_the_library_reads_them(text: str) -> None:
    assert repr(plain_yaml.load(text)) == repr(yaml.safe_load(text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", r"line 3: the key 'a' is used twice \(first in line 1\)"),
        ("[" * 61 + "]" * 61, "line 1: more than 60 levels"),
        ("[" + "1," * 200_001 + "]", "line 1: more than 200000 values"),
        ("a: 1\n---\nb: 2\n", "expected a single document"),
        ("a: !!python/none ~\n", "could not determine a constructor"),
        ("a: *nothing\n", "undefined alias"),
        ("a: 2026-02-30\n", "does not have the form of its type"),
        ("a: [1\n", "line 2"),
    ],
)
def test_a_refused_document_names_its_line_or_fault(text: str, message: str) -> None:
    with pytest.raises(yaml.YAMLError, match=message):
        plain_yaml.load(text)
