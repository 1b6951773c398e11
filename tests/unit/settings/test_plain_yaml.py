"""A text of a YAML document is found without reading the rest, and is the text that the whole document has there."""

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
