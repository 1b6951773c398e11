"""Read YAML as plain data within bounds: the only YAML reader.

Stricter than YAML's own loaders. A duplicate key in a mapping is refused, because the last one would win silently.
Aliases (`*name`) are allowed but count with everything they repeat, so that a short text cannot become millions of
values.
"""

from __future__ import annotations

from collections.abc import Hashable
from contextlib import suppress
from functools import lru_cache
from typing import Any

import yaml

MAX_TEXT = 4 << 20
"""Limit of characters of one text. The largest shipped file has 40,000."""
MAX_VALUES = 200_000
"""Limit of values of one text. A repeated alias counts each time."""
MAX_DEPTH = 60
"""Levels of lists and mappings inside each other."""

SHORT = 100
"""Characters of a word whose type is remembered."""

_RESOLVER: Any = yaml.resolver.Resolver()
_TEXT = "tag:yaml.org,2002:str"
_SCALARS = {f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "timestamp")}
_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class YamlRefused(yaml.YAMLError):
    """The text is YAML, and breaks a rule of this module. The message holds a key and a line, never a value."""


class _Loader(_Base):  # type: ignore[misc] # which of two classes is known only when the library is loaded
    """Plain data (numbers, text, dates, lists, mappings), each key of a mapping once."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        if isinstance(node, yaml.MappingNode) and _has_distinct_texts(node):
            return dict(super().construct_mapping(node, deep))
        lines: dict[Any, int] = {}
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue  # `<<: *name`, whose keys give way to the mapping's own
            key, line = self.construct_object(key_node, deep=True), key_node.start_mark.line + 1
            if not isinstance(key, Hashable):
                continue  # a list or mapping as a key: the library refuses it, with its place
            if key in lines:
                raise YamlRefused(f"line {line}: the key '{str(key)[:80]}' is used twice (first in line {lines[key]})")
            lines[key] = line
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


def _has_distinct_texts(node: Any) -> bool:
    """Return whether all keys are different texts: then none can stand twice. Most mappings are so."""
    keys = [key.value for key, _ in node.value if key.tag == _TEXT and type(key) is yaml.ScalarNode]
    return len(keys) == len(node.value) == len(set(keys))


class _Unusual(Exception):
    """The document needs `_read_nodes`: an alias, a tag, a merge, a key that is no text, or a broken rule."""


def load(text: str) -> Any:
    """Return the data of one YAML document. Raises yaml.YAMLError (`YamlRefused` for a broken rule of this module)."""
    if len(text) > MAX_TEXT:
        raise YamlRefused(f"the text has {len(text)} characters; the limit is {MAX_TEXT}")
    try:
        if len(text) <= MAX_VALUES:  # a value has at least one character
            with suppress(_Unusual):
                return _read_events(text)
        return _read_nodes(text)
    except (ValueError, OverflowError) as cause:  # such as the 30th of February, or a number of 5,000 digits
        raise YamlRefused(f"a value does not have the form of its type ({type(cause).__name__})") from None


def _read_nodes(text: str) -> Any:
    """Return the data of any document, from a node for each value."""
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _bound(node)
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _read_events(text: str) -> Any:
    """Return the data of a document as most are, in half the time of `_read_nodes`. Raises _Unusual."""
    loader = _Loader(text)
    try:
        start = _skip(loader, 1)
        if isinstance(start, yaml.StreamEndEvent):
            return None
        document = _value(loader, loader.get_event(), 1)
        if not isinstance(_skip(loader, 1), yaml.StreamEndEvent):  # after the end of the document
            raise _Unusual
        return document
    finally:
        loader.dispose()


def _value(loader: Any, event: Any, depth: int) -> Any:
    """Return the value that `event` begins; read to the value's end."""
    kind = type(event)
    if kind is yaml.ScalarEvent:
        return _scalar(loader, event)
    if kind is yaml.AliasEvent or event.anchor is not None or event.tag is not None or depth > MAX_DEPTH:
        raise _Unusual
    if kind is yaml.SequenceStartEvent:
        items = []
        while type(item := loader.get_event()) is not yaml.SequenceEndEvent:
            items.append(_value(loader, item, depth + 1))
        return items
    mapping: dict[str, Any] = {}
    while type(item := loader.get_event()) is not yaml.MappingEndEvent:
        key = _scalar(loader, item) if type(item) is yaml.ScalarEvent else None
        if type(key) is not str or key in mapping:
            raise _Unusual
        mapping[key] = _value(loader, loader.get_event(), depth + 1)
    return mapping


def _scalar(loader: Any, event: Any) -> Any:
    """Return a number, text, date, truth value or nothing."""
    if event.anchor is not None or event.tag is not None:
        raise _Unusual
    if not event.implicit[0]:  # in quotation marks
        return event.value
    tag = _tag_of_short(event.value) if len(event.value) <= SHORT else _tag(event.value)
    if tag == _TEXT:
        return event.value
    if tag not in _SCALARS:  # such as the merge `<<`
        raise _Unusual
    return loader.construct_object(yaml.ScalarNode(tag, event.value, event.start_mark, event.end_mark))


def _tag(word: str) -> str:
    """Return the type of a word without quotation marks."""
    return str(_RESOLVER.resolve(yaml.ScalarNode, word, (True, False)))


_tag_of_short = lru_cache(maxsize=4096)(_tag)
"""Most words are keys and names, which repeat."""


def text_at(text: str, *path: str) -> str | None:
    """Return the text at a path of mappings; None if there is none. Reads the document no further than that place.

    So it answers also for a document that is wrong further down, and much faster than `load`. Raises yaml.YAMLError.
    """
    if len(text) > MAX_TEXT:
        raise YamlRefused(f"the text has {len(text)} characters, more than {MAX_TEXT}")
    if "&" in text or "<<" in text:  # an anchor or a merge: what stands at the path may be written elsewhere
        node = load(text)
        for key in path:
            node = node.get(key) if isinstance(node, dict) else None
        return node if isinstance(node, str) else None
    loader = _Base(text)
    try:
        event = _skip(loader, 2)  # the starts of the stream and of the document
        for key in path:
            event = _value_of(loader, event, key)
        if not isinstance(event, yaml.ScalarEvent):
            return None
        tag = (
            event.tag if event.tag not in (None, "!") else loader.resolve(yaml.ScalarNode, event.value, event.implicit)
        )
        return str(event.value) if tag == _TEXT else None
    finally:
        loader.dispose()


def _value_of(loader: Any, event: Any, key: str) -> Any:
    """Return the event that begins a key's value, where `event` begins a mapping that has the key; otherwise None."""
    if not isinstance(event, yaml.MappingStartEvent):
        return None
    while not isinstance(item := loader.get_event(), yaml.MappingEndEvent):
        if isinstance(item, yaml.ScalarEvent) and item.value == key:
            return loader.get_event()
        _end(loader, item)
        _end(loader, loader.get_event())
    return None


def _skip(loader: Any, count: int) -> Any:
    for _ in range(count):
        loader.get_event()
    return loader.get_event()


def _end(loader: Any, event: Any) -> None:
    """Read to the end of the list or mapping that `event` begins; no further for anything else."""
    depth = 0
    while True:
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth == 0:
            return
        event = loader.get_event()


def _bound(root: Any) -> None:
    """Raise YamlRefused where the document, with its aliases written out, has too many values or levels."""
    sizes: dict[int, int] = {}  # of lists and mappings; anything else is one value
    open_nodes: set[int] = set()
    waiting = [(root, False)] if isinstance(root, yaml.CollectionNode) else []
    while waiting:
        node, done = waiting.pop()
        mark, children = id(node), _children(node)
        if done:
            open_nodes.discard(mark)
            sizes[mark] = 1 + sum(sizes.get(id(child), 1) for child in children)
            if sizes[mark] > MAX_VALUES:
                raise YamlRefused(
                    f"line {node.start_mark.line + 1}: more than {MAX_VALUES} values, with aliases expanded"
                )
        elif mark in open_nodes:
            raise YamlRefused(f"line {node.start_mark.line + 1}: an alias is inside the value that it repeats")
        elif mark not in sizes:
            open_nodes.add(mark)
            if len(open_nodes) > MAX_DEPTH:
                raise YamlRefused(f"line {node.start_mark.line + 1}: more than {MAX_DEPTH} levels")
            waiting.append((node, True))
            waiting += [(child, False) for child in children if isinstance(child, yaml.CollectionNode)]


def _children(node: Any) -> list[Any]:
    if isinstance(node, yaml.MappingNode):
        return [child for pair in node.value for child in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []
