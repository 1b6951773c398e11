"""Write a plan in pieces to a store."""

from __future__ import annotations

from rempart.replication.plan import KeyPlan
from rempart.replication.work import Store, encode

PIECE, PIECE_BYTES = 2000, 8 << 30
"""Limit of keys, and approximate limit of bytes, in one piece of work."""


class Pieces:
    """Writes plans in pieces to a store."""

    def __init__(self, store: Store, name: str) -> None:
        self._store, self._name = store, name
        self._plans: list[KeyPlan] = []
        self._bytes = 0
        self._made: list[str] = []

    def add(self, plan: KeyPlan) -> None:
        self._plans.append(plan)
        self._bytes += sum(copy.source.size for copy in plan.copies)
        if len(self._plans) >= PIECE or self._bytes >= PIECE_BYTES:
            self._write()

    def _write(self) -> None:
        name = f"{self._name}-{len(self._made):05d}.jsonl"
        self._store.put(name, encode(self._plans))
        self._made.append(name)
        self._plans, self._bytes = [], 0

    def close(self) -> tuple[str, ...]:
        if self._plans:
            self._write()
        return tuple(self._made)
