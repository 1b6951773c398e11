"""Objects, their versions, and watches on them. Used from one event loop only; stored objects are never mutated."""

from __future__ import annotations

import asyncio
import builtins
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass

from .errors import Refusal
from .kinds import Kind, Obj, key
from .selection import Matches

_REMEMBERED = 20_000


@dataclass(frozen=True)
class Change:
    """One write: `old` is None for a create; `new` is the last state for a delete."""

    version: int
    kind: Kind
    type: str
    new: Obj
    old: Obj | None


class Store:
    """What etcd and the watch cache are to an API server."""

    def __init__(self) -> None:
        self.version = 1000
        self.listeners: list[Callable[[Change], None]] = []
        self._objects: dict[Kind, dict[tuple[str, str], Obj]] = defaultdict(dict)
        self._changes: deque[Change] = deque()
        self._forgotten = self.version
        self._watchers: set[asyncio.Queue[Change]] = set()

    def get(self, kind: Kind, namespace: str, name: str) -> Obj | None:
        """The object, not to be mutated."""
        return self._objects[kind].get((namespace, name))

    def list(self, kind: Kind, namespace: str = "", matches: Matches | None = None) -> list[Obj]:
        """The objects of a namespace, or of all, by namespace and name."""
        found = sorted(self._objects[kind].items())
        return [obj for (home, _), obj in found if namespace in ("", home) and (matches is None or matches(obj))]

    def oldest_first(self, kind: Kind) -> builtins.list[Obj]:
        """All objects of a kind in the order of their creation."""
        return [*self._objects[kind].values()]

    def everything(self) -> Iterator[tuple[Kind, Obj]]:
        """Each object of each kind."""
        for kind, objects in list(self._objects.items()):
            for obj in list(objects.values()):
                yield kind, obj

    def put(self, kind: Kind, obj: Obj) -> Obj:
        """Stores an object under a new version and tells the watchers."""
        old = self._objects[kind].get(key(obj))
        return self._write(kind, "MODIFIED" if old else "ADDED", obj, old)

    def remove(self, kind: Kind, obj: Obj) -> Obj:
        """Removes an object; its last state has the version of the removal."""
        return self._write(kind, "DELETED", obj, self._objects[kind][key(obj)])

    def _write(self, kind: Kind, what: str, obj: Obj, old: Obj | None) -> Obj:
        self.version += 1
        new = obj | {"metadata": obj["metadata"] | {"resourceVersion": str(self.version)}}
        if what == "DELETED":
            del self._objects[kind][key(obj)]
        else:
            self._objects[kind][key(obj)] = new
        change = Change(self.version, kind, what, new, old)
        self._changes.append(change)
        if len(self._changes) > _REMEMBERED:
            self._forgotten = self._changes.popleft().version
        for watcher in self._watchers:
            watcher.put_nowait(change)
        for listener in self.listeners:
            listener(change)
        return new

    def compact(self) -> None:
        """Forgets past changes: a watch from before now is too old."""
        self._changes.clear()
        self._forgotten = self.version

    async def watch(
        self, kind: Kind, namespace: str, matches: Matches, since: str | None
    ) -> AsyncIterator[tuple[str, Obj]]:
        """Events (type and object) after a version, or from the present objects on. Raises Refusal 410."""
        queue: asyncio.Queue[Change] = asyncio.Queue()
        try:
            if since in (None, "", "0"):
                present = self.list(kind, namespace, matches)
                self._watchers.add(queue)
                for obj in present:
                    yield "ADDED", obj
            else:
                version = int(str(since))
                if version < self._forgotten:
                    raise Refusal(410, f"too old resource version: {version} ({self.version})")
                for change in self._changes:
                    if change.version > version:
                        queue.put_nowait(change)
                self._watchers.add(queue)
            while True:
                change = await queue.get()
                if change.kind is not kind or namespace not in ("", key(change.new)[0]):
                    continue
                before = change.old is not None and matches(change.old)
                after = change.type != "DELETED" and matches(change.new)
                if after:
                    yield "MODIFIED" if before else "ADDED", change.new
                elif before:
                    yield "DELETED", change.new
        finally:
            self._watchers.discard(queue)
