"""Names of columns and pipelines, made of what people call them."""

from __future__ import annotations

import re
import unicodedata

_LETTERS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss", "æ": "ae", "œ": "oe", "ø": "o", "ł": "l"})


def plain_name(text: str) -> str:
    """Return a text in lower case letters, digits and single _, such as `groesse_der_strasse`. Pure."""
    letters = unicodedata.normalize("NFC", text).lower().translate(_LETTERS)
    plain = unicodedata.normalize("NFKD", letters).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "_", plain).strip("_")


def proposed_name(name: str) -> str:
    """Return a column's name like this one, such as `site_name` for `Site Name`; empty if no letter is left. Pure."""
    return plain_name(name).strip("_0123456789")[:50]
