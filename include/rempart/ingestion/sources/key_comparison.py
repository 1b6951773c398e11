"""Compare the keys at a source with those of a snapshot: which are gone, and which were skipped. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from rempart.errors import IngestError

Key = tuple[object, ...]


def compare(known: Iterable[Key], there: Iterable[tuple[Key, bool]], gone: Callable[[Key], object]) -> Iterator[Key]:
    """Yield the keys that are at the source and not in the snapshot although they should be; call `gone` with others.

    Both are in strictly ascending order. The second of a pair tells whether the last extraction should have taken the
    row. Raises IngestError for keys out of order: nothing could be told from them.
    """
    ours, theirs = _ascending(known, "the snapshot"), _ascending_pairs(there)
    mine, other = next(ours, None), next(theirs, None)
    while mine is not None or other is not None:
        if other is None or (mine is not None and mine < other[0]):
            gone(mine)  # type: ignore[arg-type] # one of both is not None
            mine = next(ours, None)
        elif mine is None or other[0] < mine:
            if other[1]:
                yield other[0]
            other = next(theirs, None)
        else:
            mine, other = next(ours, None), next(theirs, None)


def _ascending(keys: Iterable[Key], where: str) -> Iterator[Key]:
    before: Key | None = None
    for key in keys:
        if before is not None and not before < key:
            raise IngestError(
                f"compare keys: those of {where} are not in ascending order, or one is there twice",
                "Check that `key` names the columns that identify a row, with the types that the database has.",
            )
        yield key
        before = key


def _ascending_pairs(there: Iterable[tuple[Key, bool]]) -> Iterator[tuple[Key, bool]]:
    flags: list[bool] = []

    def keys() -> Iterator[Key]:
        for key, old in there:
            flags.append(old)
            yield key

    for key in _ascending(keys(), "the source"):
        yield key, flags.pop()
