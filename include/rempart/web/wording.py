"""Write the texts of the pages: texts by key from one file for each language (`texts/`), durations, sizes and times.

Texts in a ledger record (reasons, checks, errors) are shown as they were signed, in every language.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Literal, get_args

from rempart.settings.schema import read_yaml
from rempart.web.read_models.messages import Message

Language = Literal["en", "fr"]
LANGUAGES: tuple[Language, ...] = get_args(Language)

_UNITS: Mapping[Language, tuple[str, str, str, str]] = {"en": ("d", "h", "min", "s"), "fr": ("j", "h", "min", "s")}
_SIZES: Mapping[Language, tuple[str, ...]] = {"en": ("B", "kB", "MB", "GB", "TB"), "fr": ("o", "ko", "Mo", "Go", "To")}
_WORDS = {"what": "what", "classification": "class"}
"""Parameters whose values have texts, and the family of those."""


@cache
def texts_of(language: Language) -> Mapping[str, str]:
    """Return every text in a language, by key."""
    found: dict[str, str] = read_yaml(Path(__file__).parent / "texts" / f"{language}.yaml")
    return found


@dataclass(frozen=True)
class Texts:
    """The texts in one language, and its form of durations, sizes and times."""

    language: Language
    of_pages: Mapping[str, str] = field(default_factory=dict)
    """Texts that the entries of pages bring, by key."""

    def __call__(self, key: str, **params: object) -> str:
        """Return the text of a key; without a text (a kind of evidence, a state of Airflow), the key's last part."""
        found = self.of_pages.get(key) or texts_of(self.language).get(key)
        return found.format(**params) if found is not None else key.rpartition(".")[2]

    def has(self, key: str) -> bool:
        """Return whether a key has a text."""
        return key in self.of_pages or key in texts_of(self.language)

    def message(self, sentence: Message) -> str:
        """Return a sentence of a read model. A parameter `x_seconds` replaces `{x}` in the text, written as a duration.

        The same is true for `x_count` and `x_bytes`. `what` and `classification` of a decision are translated.
        """
        told: dict[str, object] = {"cost": self("unknown"), "objective": self("unknown")}
        for name, value in sentence.params.items():
            stem, _, unit = name.rpartition("_")
            if stem and unit in ("seconds", "count", "bytes"):
                number = float(value)
                told[stem] = {"seconds": self.span, "bytes": self.size}.get(unit, self._whole)(number)
            else:
                told[name] = self(f"{_WORDS[name]}.{value}") if name in _WORDS else value
        if sentence.params.get("why") == "stale":
            told["why"] = self("stale")
        return self(sentence.code, **told)

    def span(self, seconds: float | None) -> str:
        """Return a duration in its two largest units."""
        if seconds is None:
            return self("unknown")
        whole, units = int(abs(seconds)), _UNITS[self.language]
        for unit, size, below, small in ((0, 86400, 1, 3600), (1, 3600, 2, 60), (2, 60, 3, 1)):
            if whole >= size:
                rest = whole % size // small
                return f"{whole // size} {units[unit]}" + (f" {rest} {units[below]}" if rest else "")
        return f"{whole} {units[3]}"

    def size(self, count: float | None) -> str:
        """Return bytes in decimal units."""
        if count is None:
            return self("unknown")
        number, unit = float(count), 0
        while number >= 1000 and unit < 4:
            number, unit = number / 1000, unit + 1
        text = f"{number:.0f}" if unit == 0 or number >= 100 else f"{number:.1f}"
        return f"{self.decimal(text)} {_SIZES[self.language][unit]}"

    def rate(self, count: float | None) -> str:
        """Return bytes per second."""
        return self("per-second", size=self.size(count))

    def number(self, value: float | None, digits: int = 4) -> str:
        """Return a number with this many significant digits."""
        return self("unknown") if value is None else self.decimal(f"{value:.{digits}g}")

    def _whole(self, value: float) -> str:
        return self.count(int(value))

    def percent(self, share: float | None) -> str:
        """Return a share, such as 0.12, in percent. A few rows of many are not shown as none."""
        if share is None:
            return self("unknown")
        return self.decimal("< 0.1 %" if 0 < share < 0.0005 else f"{share * 100:.1f} %")

    def count(self, value: int | None) -> str:
        """Return a whole number with separated thousands."""
        if value is None:
            return self("unknown")
        return f"{value:,}".replace(",", "\u202f" if self.language == "fr" else ",")

    def at(self, moment: datetime | None) -> str:
        """Return a time to the second, UTC."""
        return self("never") if moment is None else f"{moment:%Y-%m-%d %H:%M:%S} UTC"

    def decimal(self, text: str) -> str:
        """Return a number's text with the language's decimal sign."""
        return text.replace(".", ",") if self.language == "fr" else text


def choose(asked: str | None, kept: str | None, accepted: str | None) -> Language:
    """Return the language of a request: its parameter, else its cookie, else the browser's first accepted one."""
    for wanted in (asked, kept):
        if wanted in LANGUAGES:
            return wanted
    for part in (accepted or "").split(","):
        name = part.split(";")[0].strip().lower()[:2]
        if name in LANGUAGES:
            return "fr" if name == "fr" else "en"
    return "en"
