"""Write docs/reference/errors.md: each class of error, with the texts of docs/site/errors.yaml."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rempart import errors
from rempart.errors import ConfigError, RempartError
from rempart.settings import plain_yaml

TEXTS = Path("docs", "site", "errors.yaml")
EXAMPLE = errors.ClockSkewed(
    "list bucket lake of site 'haven': the site's clock is 16 min ahead of this machine's",
    "Correct this machine's clock, then try again.",
)
HEAD = f"""# Errors

**For** people who got an error message, on a terminal, in a task log or in the cockpit. **Answers** what the error
means, whether a retry helps, and what to do first.

Each message says what failed, and what to do. Some also name their section of this page:

```text
error: {EXAMPLE}
```

A *transient* error can pass by itself, so Airflow retries the task. Any other error fails the task at once, because a
retry would fail the same way. The command line ends with exit code 1 on each of them.
"""


def classes() -> list[type[RempartError]]:
    """Return every class of error, each after its base, siblings in the order of the module."""
    order = {kind: index for index, kind in enumerate(vars(errors).values()) if isinstance(kind, type)}

    def below(kind: type[RempartError]) -> Iterator[type[RempartError]]:
        yield kind
        for inner in sorted(kind.__subclasses__(), key=lambda inner: order.get(inner, len(order))):
            if inner.__module__ == errors.__name__:
                yield from below(inner)

    return list(below(RempartError))


def errors_page(root: Path) -> str:
    """Return the page. Raises ConfigError if a class has no text, or a text no class."""
    texts = plain_yaml.load((root / TEXTS).read_text(encoding="utf-8"))
    found = classes()
    if odd := {kind.__name__ for kind in found} ^ texts.keys():
        raise ConfigError(f"{TEXTS}: {', '.join(sorted(odd))}: no such class, or no text", "Correct the file.")
    parts = [HEAD]
    for kind in found:
        text = texts[kind.__name__]
        if kind.__name__ not in errors.SAY_IT_ALL and "causes" not in text:
            raise ConfigError(f"{TEXTS}: {kind.__name__} names no causes, but its messages lead here", "Add `causes`.")
        parts.append(f"\n## {kind.__name__}\n\n{text['means']}\n")
        base = kind.__base__
        if base not in (None, RempartError) and issubclass(base, RempartError):
            parts.append(f"\n- A kind of [{base.__name__}](#{base.__name__.lower()}).")
        parts.append("\n- Transient: " + ("yes, a retry can help." if kind.transient else "no."))
        if "causes" in text:
            parts.append(f"\n- Usual causes: {text['causes']}")
        parts.append(f"\n- Do first: {text['first']}")
        if "see" in text:
            parts.append(f"\n- See: {text['see']}.")
        parts.append("\n")
    return "".join(parts)
