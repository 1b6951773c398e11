"""The entry that describes a page of the navigation. Its routes, its tab and its JSON are made of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rempart.settings import access
from rempart.web.wording import Language


@dataclass(frozen=True)
class Page:
    """A page of the navigation.

    `name` is its address below `/rempart`, and its template `templates/<name>.html`. `position` orders the navigation.
    `read` returns the page's content, a frozen dataclass: the template gets it as `found`, and `/rempart/api/<name>`
    returns it as JSON to those with `right`. Its parameters are the query's, its docstring describes the JSON route.
    `texts` are more texts for its template, by language and key; `constants` are more variables of the template.
    """

    name: str
    position: int
    titles: Mapping[Language, str]
    right: access.Capability
    read: Callable[..., Any]
    texts: Mapping[Language, Mapping[str, str]] = field(default_factory=dict)
    constants: Mapping[str, Any] = field(default_factory=dict)

    def texts_in(self, language: Language) -> Mapping[str, str]:
        """Return the page's own texts in a language, and its title under `page.<name>`."""
        return {**self.texts.get(language, {}), f"page.{self.name}": self.titles[language]}
