"""Write docs/reference/configuration.md and pipeline-file.md: each key of our YAML files, from their models.

A key's meaning is its description in the model, or the first sentence of the section that it holds. Keys whose model
has neither are described in docs/site/keys.yaml.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from itertools import groupby
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from rempart.errors import ConfigError
from rempart.settings import plain_yaml

TEXTS = Path("docs", "site", "keys.yaml")
_UNITS = ((604800, "w"), (86400, "d"), (3600, "h"), (60, "m"), (1, "s"))


@dataclass(frozen=True)
class Key:
    """One key: its path in the file, and what the page says of it.

    `group`: the kind of section that has the key, such as `source.kind: sql`; empty if there is only one kind.
    """

    path: str
    kind: str
    default: str
    meaning: str
    group: str = ""


@dataclass(frozen=True)
class Texts:
    """What the models do not say: meanings by `Section.key`, and examples by top-level key."""

    keys: Mapping[str, str]
    examples: Mapping[str, str]


def read_texts(root: Path) -> Texts:
    """Return the texts of docs/site/keys.yaml."""
    texts = plain_yaml.load((root / TEXTS).read_text(encoding="utf-8"))
    return Texts(texts["keys"], texts["examples"])


def model_page(head: str, schema: Mapping[str, Any], example: str, texts: Texts, section: str) -> str:
    """Return a page with a section for each top-level key: meaning, example, and a table of the keys below it.

    `example` is the text of the shipped file, `section` the name of the whole file in `texts` and in the notes that
    have the examples checked. Raises ConfigError for a
    key without a meaning.
    """
    parts = [head]
    for name, node in schema["properties"].items():
        rows = list(_keys(schema, texts, (section, name), name, node, name in schema.get("required", ())))
        own, below = rows[0], rows[1:]
        together = name in schema.get("dependentRequired", {}).get(name, ())
        default = "required, if the pipeline has a model" if together else own.default
        parts.append(f"\n## {name}\n\n{own.meaning}\n\n- Type: {own.kind}\n- Default: {default}\n")
        if text := fragment(example, name) or texts.examples.get(name, ""):
            parts.append(f"\n<!-- checked as {section} -->\n```yaml\n{text.rstrip()}\n```\n")
        for group, keys in groupby(below, key=lambda key: key.group):
            parts.append(f"\n### {group}\n" if group else "")
            parts.append("\n| key | type | default | meaning |\n|---|---|---|---|\n")
            parts += [f"| `{k.path}` | {_cell(k.kind)} | {_cell(k.default)} | {_cell(k.meaning)} |\n" for k in keys]
    return "".join(parts)


def fragment(text: str, name: str) -> str:
    """Return the lines of a top-level key of a YAML file; empty if it has none."""
    matched = re.search(rf"^{re.escape(name)}:.*\n(?:(?:[ #].*)?\n)*", text, re.MULTILINE)
    lines = matched[0].rstrip().splitlines() if matched else []
    while lines and lines[-1].startswith("#"):  # it belongs to the next key
        lines.pop()
    return "\n".join(lines)


def _keys(
    schema: Mapping[str, Any],
    texts: Texts,
    place: tuple[str, str],
    path: str,
    node: Mapping[str, Any],
    required: bool,
    group: str = "",
) -> Iterator[Key]:
    sections = list(_sections(schema, node))
    own = texts.keys.get(".".join(place)) or texts.keys.get(f"*.{place[1]}")
    meaning = node.get("description") or own or _first_sentence(schema, node)
    if not meaning:
        raise ConfigError(f"{TEXTS} lacks {'.'.join(place)}, which its model does not describe", "Add its meaning.")
    kind, default = _kind(schema, node), "required" if required else _default(node)
    yield Key(path, f"{kind}{_limits(node)}", default, " ".join(meaning.split()), group)
    for label, branch in sections:
        needed, keys = branch.get("required", ()), branch.get("properties", {})
        constant = keys.get("kind", {}).get("const") if len(sections) > 1 else None
        inner = group or (f"{path}{label}.kind: {constant}" if constant else "")
        for key, below in keys.items():
            yield from _keys(schema, texts, (branch["title"], key), f"{path}{label}.{key}", below, key in needed, inner)


def _resolved(schema: Mapping[str, Any], node: Mapping[str, Any]) -> Mapping[str, Any]:
    return schema["$defs"][node["$ref"].rsplit("/", 1)[-1]] if "$ref" in node else node


def _sections(schema: Mapping[str, Any], node: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Return the sections that a key holds, each with what stands between: `.NAME` in a mapping, `[]` in a list."""
    node = _resolved(schema, node)
    if node.get("properties"):
        yield "", node
    for branch in (*node.get("anyOf", ()), *node.get("oneOf", ())):
        yield from _sections(schema, branch)
    if isinstance(items := node.get("items"), dict):
        yield from ((f"[]{label}", found) for label, found in _sections(schema, items))
    for value in _values(node):
        yield from ((f".NAME{label}", found) for label, found in _sections(schema, value))


def _values(node: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the schemas of a mapping's values."""
    values = [node.get("additionalProperties"), *node.get("patternProperties", {}).values()]
    return [value for value in values if isinstance(value, dict)]


def _first_sentence(schema: Mapping[str, Any], node: Mapping[str, Any]) -> str:
    """Return the first sentence of the section that a key holds; empty if it holds none."""
    found = [str(branch.get("description", "")) for _, branch in _sections(schema, node)]
    return re.split(r"(?<=\.)\s", found[0], maxsplit=1)[0] if found else ""


def _kind(schema: Mapping[str, Any], node: Mapping[str, Any]) -> str:
    """Return a type in words."""
    node = _resolved(schema, node)
    if branches := node.get("anyOf") or node.get("oneOf"):
        kinds = [_kind(schema, branch) for branch in branches if branch.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if "const" in node:
        return f"`{node['const']}`"
    if "enum" in node:
        return " or ".join(f"`{_flow(value)}`" for value in node["enum"])
    match node.get("type"):
        case "string" if node.get("pattern") == r"^\d+\s*[smhdw]$":
            return "duration"
        case "string":
            return {"date": "date", "time": "time of day"}.get(str(node.get("format")), "text")
        case "array":
            return f"list of {_kind(schema, node.get('items', {}))}"
        case "object" if values := _values(node):
            return f"for each NAME: {' or '.join(dict.fromkeys(_kind(schema, value) for value in values))}"
        case "object":
            return "section"
    return {"boolean": "true or false", "integer": "whole number", "number": "number"}.get(str(node.get("type")), "any")


def _limits(node: Mapping[str, Any]) -> str:
    words = {
        "minimum": "at least",
        "maximum": "at most",
        "exclusiveMinimum": "more than",
        "exclusiveMaximum": "less than",
    }
    found = [f"{word} {node[name]}" for name, word in words.items() if name in node]
    return f", {' and '.join(found)}" if found else ""


def _default(node: Mapping[str, Any]) -> str:
    if node.get("default") is None:
        return "none" if "default" in node else "empty"
    return f"`{_flow(node['default'])}`"


def _flow(value: object) -> str:
    """Return a default as a YAML file would hold it, on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, str) and re.fullmatch(r"P(?=.)(\d+[YMWD])*(T(\d+[HMS])+)?", value):
        return duration(TypeAdapter(timedelta).validate_python(value))
    return str(value) or '""'


def duration(value: timedelta) -> str:
    """Return a duration as our files write it, in its largest whole unit; a week has to be more than one."""
    seconds = int(value.total_seconds())
    for size, unit in _UNITS:
        if seconds % size == 0 and (unit != "w" or seconds > size):
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
