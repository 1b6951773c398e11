"""Plots of a model on rows that it did not learn from: aggregates only, so that no cell can be read off them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from rempart.models.explanations.figures import Importance

MIN_ROWS = 5
"""Minimum number of rows that one mark represents."""


def predicted_vs_actual(truth: Any, predicted: Any, target: str) -> bytes:
    """Return a PNG of a regression on held-out rows, [n] each: a hexagon stands for at least MIN_ROWS rows, the line
    for the mean of each twentieth of the rows, in order of prediction.
    """
    import numpy as np

    figure, axes = _figure()
    low, high = (float(f(np.concatenate([truth, predicted]))) for f in (np.min, np.max))
    drawn = axes.hexbin(
        predicted, truth, gridsize=35, mincnt=MIN_ROWS, cmap="Blues", extent=(low, high, low, high), linewidths=0.2
    )
    figure.colorbar(drawn, ax=axes, label=f"rows (fewer than {MIN_ROWS} are not drawn)")
    groups = [g for g in np.array_split(np.argsort(predicted, kind="stable"), 20) if len(g) >= MIN_ROWS]
    axes.plot([predicted[g].mean() for g in groups], [truth[g].mean() for g in groups], "o-", ms=3, label="mean")
    axes.plot([low, high], [low, high], "--", color="grey", lw=1, label="perfect")
    axes.set(xlabel=f"predicted {target}", ylabel=f"actual {target}", title=f"{len(truth)} held-out rows")
    axes.legend()
    return _png(figure)


def reliability(truth: Any, probabilities: Any, target: str, classes: Sequence[str]) -> bytes:
    """Return a PNG of a classification on held-out rows: per class, the share that came true for each tenth of the
    rows.
    """
    import numpy as np

    figure, axes = _figure()
    for index, name in enumerate(classes):
        chance = probabilities[:, index]
        groups = [g for g in np.array_split(np.argsort(chance, kind="stable"), 10) if len(g) >= MIN_ROWS]
        came_true = [(truth[g] == index).mean() for g in groups]
        axes.plot([chance[g].mean() for g in groups], came_true, "o-", ms=3, label=name)
    axes.plot([0, 1], [0, 1], "--", color="grey", lw=1)
    axes.set(xlabel=f"predicted chance of {target}", ylabel="observed share", title=f"{len(truth)} held-out rows")
    axes.legend()
    return _png(figure)


def importance(found: Sequence[Importance], what: str) -> bytes:
    """Return a PNG that shows how much worse the metric gets when one feature is shuffled, for the 20 most important
    features; a line is the spread over the repeats.
    """
    top = found[:20][::-1]
    figure, axes = _figure()
    bars = ([each.feature for each in top], [each.rise for each in top])
    axes.barh(*bars, xerr=[each.spread for each in top], color="#3b6ea5", ecolor="#8c8c8c")
    axes.set(xlabel=f"rise of {what} when the feature is shuffled")
    return _png(figure)


def backtest(origins: Sequence[tuple[str, float]], metric: str) -> bytes:
    """Return a PNG of a metric on the time after each origin, with their mean. `origins`: first day and figure."""
    figure, axes = _figure()
    values = [value for _, value in origins]
    axes.bar([begins for begins, _ in origins], values, color="#3b6ea5")
    axes.axhline(sum(values) / len(values), linestyle="--", color="grey", lw=1, label="mean")
    axes.set(xlabel="measured from", ylabel=metric, title=f"{len(values)} trainings from days of the past")
    axes.tick_params(axis="x", rotation=45)
    axes.legend()
    return _png(figure)


def _figure() -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    # no software name, no date: equal data, equal bytes
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
