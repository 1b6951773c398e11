"""Check expectations about regular expressions with RE2, whose time is linear in the text for any pattern.

Python's own engine, which Great Expectations uses, can take hours for one value of forty characters. RE2 comes with
Arrow. It has no look-around and no back references, and `$` matches only the end of the text.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rempart.errors import PipelineError
from rempart.settings.pipeline import Expectation
from rempart.settings.schema import told_path

if TYPE_CHECKING:
    import pyarrow as pa

MAX_PATTERN, MAX_PATTERNS = 1_000, 50
NAMES = frozenset(
    {
        "expect_column_values_to_match_regex",
        "expect_column_values_to_not_match_regex",
        "expect_column_values_to_match_regex_list",
        "expect_column_values_to_not_match_regex_list",
    }
)
_ARGUMENTS = {"column", "regex", "regex_list", "match_on"}


def check(index: int, expectation: Expectation) -> None:
    """Raise PipelineError for arguments that are not known, and for a pattern that RE2 does not take."""
    if expectation.expect not in NAMES:
        _check_schema(index, expectation.arguments)
        return
    where = told_path("expectations", index)
    if unknown := sorted(set(expectation.arguments) - _ARGUMENTS):
        raise PipelineError(
            f"{where}: '{unknown[0]}' is not an argument of '{expectation.expect}'",
            f"Use: {', '.join(sorted(_ARGUMENTS))}.",
        )
    if expectation.arguments.get("match_on", "any") not in ("any", "all"):
        raise PipelineError(f"{where}.match_on: write `any` or `all`", "Correct it.")
    import pyarrow as pa
    import pyarrow.compute as pc

    patterns = _patterns(expectation)
    if not patterns or len(patterns) > MAX_PATTERNS or not all(isinstance(pattern, str) for pattern in patterns):
        raise PipelineError(
            f"{where}: '{expectation.expect}' needs `regex`, or a `regex_list` of at most {MAX_PATTERNS} patterns",
            "Correct its arguments.",
        )
    for pattern in patterns:
        try:
            if len(pattern) > MAX_PATTERN:
                raise pa.ArrowInvalid(f"it has more than {MAX_PATTERN} characters")
            pc.match_substring_regex(pa.array([""], pa.string()), pattern)
        except pa.ArrowInvalid as cause:
            raise PipelineError(
                f"{where}: the pattern {pattern[:80]!r} is not valid: {cause}",
                "Write it in RE2's syntax: without look-around (?=...), back references and possessive quantifiers.",
            ) from None


def _check_schema(index: int, arguments: Any) -> None:
    """Refuse patterns in a JSON schema: Python's engine would judge them on every value."""
    found = [key for key in _keys(arguments.get("json_schema")) if key in ("pattern", "patternProperties", "format")]
    if found:
        raise PipelineError(
            f"{told_path('expectations', index, 'json_schema')}: '{found[0]}' is not allowed, because its run time "
            "has no limit",
            "Remove it, and check the column with expect_column_values_to_match_regex.",
        )


def _keys(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield str(key)
            yield from _keys(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _keys(inner)


def _patterns(expectation: Expectation) -> list[str]:
    given = expectation.arguments
    return [given["regex"]] if "regex" in given else list(given.get("regex_list") or ())


def broken(index: int, expectation: Expectation, table: pa.Table) -> list[int]:
    """Return which rows break the expectation, by position; an empty cell meets it. Raises PipelineError."""
    import pyarrow as pa
    import pyarrow.compute as pc

    check(index, expectation)
    text = table[expectation.arguments["column"]]
    if not (pa.types.is_string(text.type) or pa.types.is_large_string(text.type)):
        raise PipelineError(
            f"{told_path('expectations', index)}: '{expectation.expect}' cannot be applied to "
            f"{expectation.arguments['column']}",
            "A pattern fits a column of type string or category.",
        )
    matches = [pc.fill_null(pc.match_substring_regex(text, pattern), False) for pattern in _patterns(expectation)]
    every = "match_on" in expectation.arguments and expectation.arguments["match_on"] == "all"
    found = matches[0]
    for matching in matches[1:]:
        found = pc.and_(found, matching) if every else pc.or_(found, matching)
    against = found if "_not_match_" in expectation.expect else pc.invert(found)
    places: list[int] = pc.indices_nonzero(pc.and_(against, pc.is_valid(text))).to_pylist()
    return places
