"""Erase predictions: rows leave their files in the lake, the open table, and the user's table.

A prediction has the key of its row. The search of erased rows finds files of predictions as it finds parts of
snapshots. Here their manifests are written anew, and the tables begin again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from rempart.errors import RempartError, SiteError
from rempart.flows.erasure.erase_objects import HeldVersion
from rempart.flows.erasure.erase_stores import ErasureStores
from rempart.flows.ingestion import delta_log
from rempart.flows.prediction import scorings, user_table
from rempart.flows.shared.deletion import versions_below
from rempart.ingestion import erasing
from rempart.ingestion.erasing import IsErased
from rempart.ingestion.snapshots import Part
from rempart.settings.champions.scoring import Into
from rempart.settings.pipeline import ModelPipeline, Pipeline
from rempart.settings.pipelines import load_all
from rempart.sites.port import Site


def repoint(site: Site, bucket: str, rows_of: str, held: Sequence[HeldVersion]) -> dict[str, int | None]:
    """Write the manifests of cut files anew at the home site, and begin their tables again.

    Return the version with which each table begins, by its root; None for a table of which nothing is left. Raises
    SiteError, IntegrityError.
    """
    cut = {version.info.key: version for version in held if version.kind == "prediction" and version.site == site.name}
    return rewrite(site, bucket, rows_of, lambda part: _after(part, cut.get(part.key))) if _of_predictions(held) else {}


def rewrite(site: Site, bucket: str, rows_of: str, after: Callable[[Part], Part | None]) -> dict[str, int | None]:
    """Replace the parts of every scoring of a pipeline's rows; a part without a replacement goes. As `repoint`."""
    found = dict[str, int | None]()
    for root in scorings.roots(site, bucket, rows_of):
        left = []
        for scoring in scorings.all_of(site, bucket, root):
            now = replace(
                scoring,
                parts=tuple(filter(None, map(after, scoring.parts))),
                quarantine=tuple(filter(None, map(after, scoring.quarantine))),
            )
            if now != scoring:
                scorings.store(site, bucket, now)
            left.append(now)
        table = scorings.table(root, left)
        found[root] = None if table is None else delta_log.restart(site, bucket, table)
    return found


def _of_predictions(held: Sequence[HeldVersion]) -> bool:
    return any(version.kind == "prediction" for version in held)


def _after(part: Part, cut: HeldVersion | None) -> Part | None:
    import pyarrow.parquet as pq

    if cut is None:
        return part
    if cut.to is None or cut.file is None:
        return None
    sha256, rows = cut.to.rsplit("/", 1)[-1].removesuffix(".parquet"), int(pq.read_metadata(cut.file).num_rows)
    return Part("", cut.to, sha256, rows, cut.file.stat().st_size)


@dataclass(frozen=True)
class Withdrawn:
    """Versions of objects to delete, and the tables that begin again (see `repoint`)."""

    held: list[HeldVersion]
    tables: Mapping[str, int | None]


@dataclass(frozen=True)
class UserTable:
    """A table of the user's that has, or had, predictions of a pipeline's rows. `keys`: its columns of the key."""

    into: Into
    model: str
    keys: tuple[str, ...]

    def __str__(self) -> str:
        return f"table {self.into.table} of connection '{self.into.connection}' (model '{self.model}')"


def user_tables(stores: ErasureStores, pipeline: Pipeline) -> list[UserTable]:
    """Return every table of users that got predictions of a pipeline's rows, by the files and by evidence."""
    found = dict[tuple[str, str, str], UserTable]()
    keys = tuple(scorings.names_of(pipeline.key))
    for name, loaded in load_all().items():
        scoring = loaded.scoring if isinstance(loaded, ModelPipeline) else None
        if scoring and scoring.into and (scoring.from_ or name) == pipeline.name:
            found[scoring.into.connection, scoring.into.table, name] = UserTable(scoring.into, name, keys)
    for record in stores.ledger.find("scoring"):
        told: Mapping[str, Any] = record.body
        if told.get("rows_of") == pipeline.name and told.get("into"):
            into = Into(**told["into"])
            found[into.connection, into.table, record.subject] = UserTable(into, record.subject, keys)
    return [found[name] for name in sorted(found)]


def in_user_tables(
    stores: ErasureStores, pipeline: Pipeline, gone: IsErased, *, dry_run: bool
) -> tuple[dict[str, int], dict[str, str]]:
    """Delete erased rows in the tables of users; with `dry_run` count them. Return rows and faults, by table."""
    return _each(
        stores,
        user_tables(stores, pipeline),
        lambda table, connection: user_table.strike(
            connection, table.into, table.model, table.keys, gone, dry_run=dry_run
        ),
    )


def others_in_user_tables(
    stores: ErasureStores, pipeline: Pipeline, snapshots: Collection[str]
) -> tuple[dict[str, int], dict[str, str]]:
    """Delete rows in the tables of users that were predicted from other snapshots than these. As `in_user_tables`."""
    return _each(
        stores,
        user_tables(stores, pipeline),
        lambda table, connection: user_table.strike_others(connection, table.into, table.model, snapshots),
    )


def _each(
    stores: ErasureStores, tables: Sequence[UserTable], act: Callable[[UserTable, Any], int]
) -> tuple[dict[str, int], dict[str, str]]:
    rows, faults = dict[str, int](), dict[str, str]()
    for table in tables:
        try:
            if count := act(table, stores.connections(table.into.connection)):
                rows[str(table)] = count
        except RempartError as error:
            faults[str(table)] = error.what
    return rows, faults


def of_other_snapshots(stores: ErasureStores, rows_of: str, clean: Collection[str]) -> Withdrawn:
    """Begin the tables of predictions again without those of other snapshots than `clean`; return what is to delete.

    Raises SiteError, IntegrityError.
    """
    home, bucket = stores.sites[stores.home], stores.lake
    tables, stays = dict[str, int | None](), set[str]()
    for root in scorings.roots(home, bucket, rows_of):
        every = scorings.all_of(home, bucket, root)
        left = [scoring for scoring in every if scoring.asked.snapshot in clean]
        for scoring in left:
            stays |= {scorings.key_of(scoring.asked), *(part.key for part in (*scoring.parts, *scoring.quarantine))}
        table = scorings.table(root, left)
        if len(left) < len(every):
            tables[root] = None if table is None else delta_log.restart(home, bucket, table)
    held = list[HeldVersion]()
    for name, site in stores.sites.items():
        with suppress(SiteError):  # the search of its snapshots reports it
            for info in versions_below(site, bucket, scorings.folder(rows_of)):
                key = erasing.original(info.key)
                if not info.marker and key not in stays and "/_delta_log/" not in key:
                    held.append(HeldVersion(name, "prediction", info, "", 0, False))
    return Withdrawn(held, tables)
