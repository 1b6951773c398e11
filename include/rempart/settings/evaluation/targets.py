"""Which column of the own rows may be the target, and when a row may lack it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rempart.settings.columns import Column, Moment
from rempart.settings.learning import Prediction


def faults(
    prediction: Prediction, columns: Mapping[str, Column], moments: Mapping[str, Moment], *, refuses: bool
) -> Iterator[str]:
    """Yield why a column of the schema cannot be the target: a row may lack it only until a later moment.

    `columns`: those of the schema. `refuses`: a row goes to quarantine if it is delivered again with other values.
    """
    column = columns[prediction.target]
    if wrong := list(prediction.type_faults(column)):
        yield from wrong
        return
    order, known, at, target = list(moments), column.known, prediction.at, prediction.target
    if known not in moments or at not in moments:
        return
    if moments[known].plus is not None and order.index(known) < order.index(at):
        yield (
            f"prediction.target: column '{target}' is known from '{known}', a fixed time after its column, but "
            f"'{known}' stands before the moment of the prediction, '{at}'. Moments stand in order of time: move it "
            f"below '{at}'"
        )
    elif not column.nullable:
        return
    elif order.index(known) <= order.index(at) or moments[known] == moments[at]:
        yield (
            f"prediction.target: column '{target}' is nullable, but known from '{known}', which is no later than the "
            f"moment of the prediction, '{at}': nothing tells when a row without it gets it. Declare a later moment, "
            f"such as `closed: {{column: closed_on}}`, and write `known: closed` at '{target}'. Or delete its "
            "`nullable`: rows without it then go to quarantine"
        )
    elif _is_always_known(moments[known], columns):
        yield (
            f"prediction.target: column '{target}' is nullable, but no column of its moment '{known}' is, so an open "
            f"row goes to quarantine. Make {' or '.join(moments[known].columns)} `nullable: true`, too, or let the "
            "moment follow after a fixed time: `plus: 14 days`"
        )
    elif refuses:
        yield (
            f"prediction.target: column '{target}' is nullable, but a row that is delivered again with its {target} "
            "goes to quarantine. Write `on_conflict: newest`: it then replaces the open row"
        )


def _is_always_known(moment: Moment, columns: Mapping[str, Column]) -> bool:
    """Return whether each row has a moment that does not follow after a fixed time."""
    return moment.plus is None and not any(columns[name].nullable for name in moment.columns if name in columns)
