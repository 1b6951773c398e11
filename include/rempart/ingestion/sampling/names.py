"""Names of columns and pipelines, made of what people call them; and the map from those to these."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping

_HUMP = re.compile(r"(?<=[a-zà-öø-ÿ]{2})(?=[A-ZÀ-ÖØ-Þ])")
"""Where a word of a name such as hoursSinceService begins; kWh and pH have none."""
_NAME = re.compile(r"[a-z][a-z0-9_]{0,49}")
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
"""How YAML writes some characters in a quoted text."""
_YAML_WORDS = {"yes", "no", "true", "false", "on", "off", "null", "y", "n"}
_LETTERS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss", "æ": "ae", "œ": "oe", "ø": "o", "ł": "l"})


def plain_name(text: str) -> str:
    """Return a text in lower case letters, digits and single _, such as `groesse_der_strasse`. Pure."""
    letters = unicodedata.normalize("NFC", text).lower().translate(_LETTERS)
    plain = unicodedata.normalize("NFKD", letters).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "_", plain).strip("_")


def proposed_name(name: str) -> str:
    """Return a column's name like this one, such as `site_name` for `Site Name` and `siteName`; empty if no letter is
    left. Pure.
    """
    return plain_name(_HUMP.sub("_", name)).lstrip("_0123456789")[:50].rstrip("_")


def columns_of(names: Iterable[str]) -> dict[str, str]:
    """Return a column's name for each name, in order, no two alike: a name that can be a column stays. Pure."""
    given = list(names)
    columns = {name: name if _NAME.fullmatch(name) else "" for name in given}
    taken = set(columns.values())
    for i, name in enumerate(given, 1):
        if columns[name]:
            continue
        proposed = proposed_name(name) or f"column_{i}"
        again = 1
        while (free := proposed if again == 1 else f"{proposed[:46]}_{again}") in taken:
            again += 1
        columns[name] = free
        taken.add(free)
    return columns


def header_entries(columns: Mapping[str, str]) -> Iterator[str]:
    """Yield entries of `source.header` as YAML, such as `"Order ID": order_id`; none for a name that stays. Pure."""
    yield from (f"{yaml_text(name)}: {yaml_word(column)}" for name, column in columns.items() if name != column)


def yaml_word(text: str) -> str:
    """Return a text as a YAML scalar, in quotes where these are needed. Pure."""
    return text if re.fullmatch(r"[a-z][a-z0-9_]*", text) and text not in _YAML_WORDS else yaml_text(text)


def shown(name: object) -> str:
    """Return a name from outside, such as that of a file, on one line: control characters are escaped. Pure."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(name))


def yaml_text(text: str) -> str:
    """Return a text as a quoted YAML scalar: a line break is `\\n`. Pure."""
    return '"' + "".join(c if c.isprintable() and c not in _ESCAPES else _escaped(c) for c in text) + '"'


def _escaped(character: str) -> str:
    return _ESCAPES.get(character) or f"\\U{ord(character):08X}"
