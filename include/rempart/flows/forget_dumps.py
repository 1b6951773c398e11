"""Dumps that no restore point needs any more leave the databases' repositories."""

from __future__ import annotations

from collections.abc import Callable, Collection

from rempart.backup import retention, wal
from rempart.backup.domains import parse
from rempart.flows import point_in_time
from rempart.flows.keys import open_keyring
from rempart.flows.platform import Platform
from rempart.flows.repositories import repository_of
from rempart.flows.restore_points import open_site

TAG = "point="
"""A dump's snapshot bears the id of its point behind this."""


def forget(
    platform: Platform,
    site: str,
    needed: Collection[retention.Snapshot],
    standing: Collection[str],
    say: Callable[[str], object],
) -> dict[str, int]:
    """Have every repository at a site forget the dumps that nobody needs; how many of each domain.

    `needed` by the points that are kept; `standing` are the points that are there. What a destroyed key opened is
    unreadable already, and stays. Raises what keys and repositories raise; a run again goes on.
    """
    if not needed:  # dumps of the first formats stand beside their manifest
        return {}
    keyring, forgotten = open_keyring(platform, say), dict[str, int]()
    for card in keyring.cards():
        domain = parse(card.domain)
        if not card.destroyed and domain.name == wal.NAME:
            where, key = open_site(platform, site), keyring.open(domain, card.serial)
            if bases := point_in_time.forget_bases(platform, where, key):
                forgotten[domain.id] = forgotten.get(domain.id, 0) + bases
                say(f"{domain.id}: {bases} base backups forgotten")
        if card.destroyed or domain.kind != "database":
            continue
        repository = repository_of(platform, site, keyring.open(domain, card.serial))
        stored = {
            one.id: tag.removeprefix(TAG) for one in repository.snapshots() for tag in one.tags if tag.startswith(TAG)
        }
        named = {one.id for one in needed if (one.domain, one.serial) == (domain.id, card.serial)}
        if gone := retention.unneeded(stored, named, standing):
            repository.forget(gone)
            forgotten[domain.id] = forgotten.get(domain.id, 0) + len(gone)
            say(f"{domain.id}: {len(gone)} dumps forgotten")
    return forgotten
