"""A model of LightGBM: from the text that it writes, and as ONNX.

The text is data, no pickle: https://lightgbm.readthedocs.io (`model_to_string`), format v4. A tree is a block of lines
`name=values`, with numbers of full precision.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rempart.errors import TrainingError
from rempart.training.trainers import tree_conversion
from rempart.training.trainers.tree_conversion import Ensemble, Tree

_CATEGORICAL, _DEFAULT_LEFT, _MISSING_SHIFT, _MISSING_NAN = 1, 2, 2, 2
"""Bits of `decision_type`: whether a node splits by a set, where its nulls go, and what counts as null."""


@dataclass(frozen=True)
class Layout:
    """How LightGBM sees the matrix of `columns` columns.

    `numbers`: the columns that it reads as they are; after them it reads one column for each of `categories`.
    """

    columns: int
    numbers: Any
    categories: tuple[range, ...] = ()

    def matrix(self, inputs: Any) -> Any:
        """Return what LightGBM reads, float32 [n, numbers and categories]; the null of a category is NaN."""
        import numpy as np

        if not self.categories:
            return inputs
        codes = tree_conversion.category_matrix(inputs, self.categories)
        return np.hstack([inputs[:, self.numbers], np.where(codes > 0, codes, np.float32(np.nan))])

    def onnx_columns(self) -> Any:
        """Return for each column that LightGBM reads its place in the ONNX model."""
        import numpy as np

        return np.concatenate([self.numbers, self.columns + np.arange(len(self.categories))]).astype(np.int64)


@dataclass(frozen=True)
class LightGBM:
    """A fitted model: the booster, and how it sees the matrix. `classes`: 0 for a regression."""

    booster: Any
    layout: Layout
    classes: int

    def to_onnx(self) -> bytes:
        raw_values = self.classes if self.classes > 2 else 1
        found = list(trees(self.booster.model_to_string(), raw_values, self.layout.onnx_columns()))
        link = tree_conversion.link_of(self.classes)
        ensemble = Ensemble(found, [0.0] * raw_values, "BRANCH_LEQ", link, self.layout.categories)
        return tree_conversion.to_onnx(ensemble, self.layout.columns, self.classes)

    def predict(self, inputs: Any) -> Any:
        """Return LightGBM's own predictions: [n] in the target's unit, or probabilities [n, classes]."""
        import numpy as np

        predicted = self.booster.predict(self.layout.matrix(inputs))
        return np.column_stack([1 - predicted, predicted]) if self.classes == 2 else predicted


def trees(text: str, raw_values: int, columns: Any) -> Iterator[Tree]:
    """Yield the trees of a model's text. `columns`: by LightGBM's column, the column of the ONNX model.

    Raises TrainingError if the text has another format.
    """
    if "\nversion=v4\n" not in text:
        raise TrainingError(
            "convert the model to ONNX: LightGBM writes models in another format than v4",
            "Install the version of LightGBM in the lock (`make setup`).",
        )
    blocks = text[: text.index("end of trees")].split("\nTree=")[1:]
    for number, block in enumerate(blocks):
        lines = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        yield _tree(lines, number % raw_values, columns)


def _tree(lines: dict[str, str], target: int, columns: Any) -> Tree:
    import numpy as np

    def numbers(name: str, kind: Any) -> Any:
        return np.array(lines.get(name, "").split(), dtype=kind)

    values = numbers("leaf_value", np.float64)
    if (leaves := int(lines["num_leaves"])) != len(values):
        raise TrainingError("convert the model to ONNX: a tree of LightGBM is torn", "Run the job again.")
    inner = leaves - 1 if leaves > 1 else 0
    padding = np.zeros(leaves, np.int64)
    if not inner:
        none = np.zeros(1, np.float32)
        return Tree(target, padding, none, padding, padding, padding, np.ones(1, bool), values)
    kind, threshold = numbers("decision_type", np.int64), numbers("threshold", np.float64)
    by_set = (kind & _CATEGORICAL) > 0
    missing_is_nan = (kind >> _MISSING_SHIFT) & 3 == _MISSING_NAN
    # where training met no null, LightGBM reads a null as 0
    null_left = np.where(missing_is_nan, (kind & _DEFAULT_LEFT) > 0, threshold >= 0)
    left, right = (_child(numbers(name, np.int64), inner) for name in ("left_child", "right_child"))
    return Tree(
        target,
        np.concatenate([columns[numbers("split_feature", np.int64)], padding]),
        np.concatenate([tree_conversion.rounded_down(np.where(by_set, 0, threshold)), padding.astype(np.float32)]),
        np.concatenate([left, padding]),
        np.concatenate([right, padding]),
        np.concatenate([null_left.astype(np.int64), padding]),
        np.arange(inner + leaves) >= inner,
        np.concatenate([np.zeros(inner), values]),
        _sets(
            np.flatnonzero(by_set), threshold, numbers("cat_boundaries", np.int64), numbers("cat_threshold", np.uint32)
        ),
    )


def _child(children: Any, inner: int) -> Any:
    """Return the node of each child: LightGBM numbers leaves -1, -2, ..., and they follow the inner nodes here."""
    import numpy as np

    return np.where(children >= 0, children, inner - 1 - children)


def _sets(nodes: Any, threshold: Any, boundaries: Any, words: Any) -> dict[int, Any]:
    """Return by node the values that go left: the bits that are set in its words."""
    import numpy as np

    found: dict[int, Any] = {}
    for node in nodes:
        place = int(threshold[node])
        mine = words[boundaries[place] : boundaries[place + 1]]
        bits = np.unpackbits(mine.astype("<u4").view(np.uint8), bitorder="little")
        found[int(node)] = np.flatnonzero(bits)
    return found


def layout(columns: int, categories: Sequence[range]) -> Layout:
    """Return how LightGBM sees a matrix whose categories it reads as one column each."""
    import numpy as np

    taken = [column for span in categories for column in span]
    return Layout(columns, np.setdiff1d(np.arange(columns), taken), tuple(categories))
