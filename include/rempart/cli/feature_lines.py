"""Write the catalogue of feature views as lines."""

from __future__ import annotations

from collections.abc import Iterator

from rempart.cli.views import text
from rempart.features.catalogue.entries import Catalogue, CatalogueFeature, CatalogueView

HEAD = ("VIEW", "KIND", "OWNER", "CLASSIFICATION", "KEY", "MOMENT", "FEATURES", "READ BY")


def listing(found: Catalogue) -> Iterator[str]:
    """Yield the table of all views."""
    if not found.views and not found.faults:
        yield "There is no feature view yet. Draft a pipeline from a file: rempart pipeline new your.csv"
        return
    yield from text.table(HEAD, map(_row, found.views))
    for pipeline, why in found.faults.items():
        yield from f"{pipeline}: {why}".split("\n")


def _row(view: CatalogueView) -> tuple[str, ...]:
    users = ", ".join(f"{user.model} version {user.version}" for user in view.users or ())
    return (
        view.name,
        view.kind,
        view.owner,
        view.classification,
        ", ".join(view.key),
        view.moment,
        str(len(view.features)),
        text.UNKNOWN if view.users is None else users or "no champion",
    )


def lines(view: CatalogueView, loaded: str) -> Iterator[str]:
    """Yield one view with its features. `loaded`: about the snapshot in the feature store."""
    yield f"{view.name}: {text.folded(view.description) or 'no description'}"
    moment = f"{view.moment}, of {' and '.join(view.moment_columns)}"
    yield from text.pairs(
        [
            ("kind", view.kind),
            *([("values of", view.uses)] if view.uses else []),
            *([("used by", ", ".join(view.used_by))] if view.used_by else []),
            ("owner", view.owner),
            ("classification", view.classification),
            ("key", ", ".join(f"{column} ({kind})" for column, kind in view.key.items())),
            ("moment", moment),
            ("newest snapshot", view.snapshot or (text.UNKNOWN if view.users is None else "none")),
            ("loaded snapshot", loaded),
        ]
    )
    yield ""
    shown = 4 if view.is_derived else 3
    rows = (_feature(feature)[:shown] for feature in view.features)
    yield from text.table(("FEATURE", "TYPE", "MADE OF", "DELIVERED AS")[:shown], rows)
    yield ""
    if view.users is None:
        yield "Read by: unknown: the ledger did not answer, or the record of a champion's training is not in it"
    elif not view.users:
        yield "Read by: no champion"
    for user in view.users or ():
        of = f"{len(user.features)} of {text.counted(len(view.features), 'feature')}"
        through = f" through {user.through}" if user.through else ""
        read = f": {', '.join(user.features)}" if user.features else ""
        former = f"; by a former definition: {', '.join(user.former)}" if user.former else ""
        yield f"Read by: {user.model} version {user.version}{through}, {of}{read}{former}"
        yield from text.pairs(
            [("trained on snapshot", user.snapshot or text.UNKNOWN), ("MLflow run", user.run_id or text.UNKNOWN)]
        )


def _feature(feature: CatalogueFeature) -> tuple[str, ...]:
    made = text.UNKNOWN if feature.columns is None else ", ".join(feature.columns) or "the number of rows"
    sources = text.UNKNOWN if feature.sources is None else ", ".join(feature.sources)
    return (feature.name, feature.type, made, sources)
