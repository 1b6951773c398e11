"""Fitted gradient-boosted trees as an ONNX model of standard operators.

Written here because the common converters fail on these trees or change them: skl2onnx 1.20 hands booleans to an
integer field with protobuf 7, and converters round thresholds to the nearest float32, which sends a row at a threshold
down the other branch.
Operators: https://onnx.ai/onnx/operators/onnx_aionnxml_TreeEnsembleRegressor.html, and TreeEnsemble of version 5 where
trees split by sets of values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from rempart.models.encoding import Feature

INPUT, COLUMNS, RAW, OUTPUT = "inputs", "columns", "raw", "predictions"
Comparison = Literal["BRANCH_LEQ", "BRANCH_LT"]
Link = Literal["identity", "sigmoid", "softmax"]
_CODE_OF = {"BRANCH_LEQ": 0, "BRANCH_LT": 1}
_MEMBER = 6


@dataclass(frozen=True)
class Tree:
    """One tree, as arrays over its nodes; node 0 is the root. `target`: the raw value that it adds to.

    `column`, `threshold` (float32), `left`, `right`, `null_left`: of inner nodes; a row goes left if its value compares
    true with the threshold. `leaf`: whether the node is one; `value`: what it adds. `sets`: by node, the values that go
    left instead of a comparison.
    """

    target: int
    column: Any
    threshold: Any
    left: Any
    right: Any
    null_left: Any
    leaf: Any
    value: Any
    sets: Mapping[int, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Ensemble:
    """Trees, what their sum begins with, and how it becomes a prediction.

    `base` [raw values]; `link`: `sigmoid` of one raw value, the log-odds of the second class of two, `softmax` of one
    raw value a class. `categories`: by column that the trees read after those of the matrix, the matrix's columns of a
    category: the column holds 1 for the first of them, and 0 if none is 1.
    """

    trees: Sequence[Tree]
    base: Sequence[float]
    comparison: Comparison
    link: Link
    categories: Sequence[range] = ()


def convert(model: Any, columns: int) -> bytes:
    """Return a fitted HistGradientBoosting* model without categorical splits as ONNX bytes.

    One input `inputs`, float32 [n, columns], NaN for null; one output `predictions`: float32 [n, 1] of a regression
    with identity link, or the probabilities [n, classes].
    """
    import numpy as np
    from sklearn.base import is_classifier

    trees = []
    for iteration in model._predictors:
        for target, predictor in enumerate(iteration):
            nodes = predictor.nodes
            trees.append(
                Tree(
                    target,
                    nodes["feature_idx"],
                    rounded_down(nodes["num_threshold"]),
                    nodes["left"],
                    nodes["right"],
                    nodes["missing_go_to_left"],
                    nodes["is_leaf"].astype(bool),
                    nodes["value"],
                )
            )
    classes = len(model.classes_) if is_classifier(model) else 0
    base = [float(value) for value in np.ravel(model._baseline_prediction)]
    return to_onnx(Ensemble(trees, base, "BRANCH_LEQ", link_of(classes)), columns, classes)


def link_of(classes: int) -> Link:
    """Return how a raw value becomes a prediction of that many classes, 0 for a regression."""
    if not classes:
        return "identity"
    return "sigmoid" if classes == 2 else "softmax"


def to_onnx(ensemble: Ensemble, columns: int, classes: int) -> bytes:
    """Return the trees as ONNX bytes, with input and output as of `convert`."""
    import onnx
    from onnx import TensorProto, helper

    constants: list[Any] = []
    nodes, read = _category_columns(ensemble.categories, constants)
    raw = OUTPUT if ensemble.link == "identity" else RAW
    by_sets = any(tree.sets for tree in ensemble.trees)
    nodes += _with_sets(ensemble, read, raw, constants) if by_sets else [_without_sets(ensemble, read, raw)]
    if ensemble.link == "sigmoid":
        constants.append(helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0]))
        nodes += [
            helper.make_node("Sigmoid", [RAW], ["second"]),
            helper.make_node("Sub", ["one", "second"], ["first"]),
            helper.make_node("Concat", ["first", "second"], [OUTPUT], axis=1),
        ]
    elif ensemble.link == "softmax":
        nodes.append(helper.make_node("Softmax", [RAW], [OUTPUT], axis=1))
    graph = helper.make_graph(
        nodes,
        "gradient_boosting",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [None, columns])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [None, classes or 1])],
        constants,
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 5 if by_sets else 3)]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=8, producer_name="rempart")
    onnx.checker.check_model(proto)
    return bytes(proto.SerializeToString())


def category_matrix(inputs: Any, categories: Sequence[range]) -> Any:
    """Return for each category the position of its 1 among its columns, counted from 1; 0 if there is none.

    float32 [n, categories]; what the ONNX model computes as well.
    """
    import numpy as np

    weights = [np.arange(1, len(span) + 1, dtype=np.float32) for span in categories]
    codes = [inputs[:, span.start : span.stop] @ w for span, w in zip(categories, weights, strict=True)]
    return np.column_stack(codes) if codes else np.zeros((len(inputs), 0), np.float32)


def spans(features: Sequence[Feature]) -> list[range]:
    """Return the columns of the matrix that each category has."""
    found, start = [], 0
    for feature in features:
        width = len(feature.columns())
        if feature.type == "category":
            found.append(range(start, start + width))
        start += width
    return found


def _category_columns(categories: Sequence[range], constants: list[Any]) -> tuple[list[Any], str]:
    """Return nodes that append a column for each category, and the name of what the trees read.

    Sums of 0 and 1 times small whole numbers are exact in float32.
    """
    import numpy as np
    from onnx import helper, numpy_helper

    if not categories:
        return [], INPUT
    taken = [column for span in categories for column in span]
    weights = np.zeros((len(taken), len(categories)), np.float32)
    row = 0
    for number, span in enumerate(categories):
        weights[row : row + len(span), number] = np.arange(1, len(span) + 1)
        row += len(span)
    constants += [
        numpy_helper.from_array(np.array(taken, np.int64), "taken"),
        numpy_helper.from_array(weights, "positions"),
    ]
    return [
        helper.make_node("Gather", [INPUT, "taken"], ["ones"], axis=1),
        helper.make_node("MatMul", ["ones", "positions"], ["codes"]),
        helper.make_node("Concat", [INPUT, "codes"], [COLUMNS], axis=1),
    ], COLUMNS


def _without_sets(ensemble: Ensemble, read: str, raw: str) -> Any:
    """Return the node of trees that only compare."""
    import numpy as np
    from onnx import helper

    parts: dict[str, list[Any]] = {}

    def add(name: str, values: Any) -> None:
        parts.setdefault(name, []).append(np.asarray(values))

    for tree_id, tree in enumerate(ensemble.trees):
        leaf, ids = tree.leaf, np.arange(len(tree.leaf))
        add("nodes_treeids", np.full(len(leaf), tree_id))
        add("nodes_nodeids", ids)
        add("nodes_featureids", np.where(leaf, 0, tree.column))
        add("nodes_values", np.where(leaf, np.float32(0), tree.threshold))
        add("nodes_modes", np.where(leaf, "LEAF", ensemble.comparison))
        add("nodes_truenodeids", np.where(leaf, 0, tree.left))
        add("nodes_falsenodeids", np.where(leaf, 0, tree.right))
        add("nodes_missing_value_tracks_true", np.where(leaf, 0, tree.null_left))
        add("target_treeids", np.full(int(leaf.sum()), tree_id))
        add("target_nodeids", ids[leaf])
        add("target_ids", np.full(int(leaf.sum()), tree.target))
        add("target_weights", tree.value[leaf])
    joined = {name: np.concatenate(arrays) for name, arrays in parts.items()}
    attributes: dict[str, Any] = {
        name: (a.astype(np.int64) if a.dtype.kind in "iub" else a).tolist() for name, a in joined.items()
    }
    return helper.make_node(
        "TreeEnsembleRegressor",
        [read],
        [raw],
        domain="ai.onnx.ml",
        n_targets=len(ensemble.base),
        aggregate_function="SUM",
        post_transform="NONE",
        base_values=list(ensemble.base),
        **attributes,
    )


def _with_sets(ensemble: Ensemble, read: str, raw: str, constants: list[Any]) -> list[Any]:
    """Return the nodes of trees that split by sets of values as well, and the sum with the base.

    The operator numbers inner nodes and leaves apart, over all trees.
    """
    import numpy as np
    from onnx import helper, numpy_helper

    parts: dict[str, list[Any]] = {}
    roots, members = list[int](), list[Any]()
    inner_before = leaves_before = 0

    def add(name: str, values: Any, kind: Any = np.int64) -> None:
        parts.setdefault(name, []).append(np.asarray(values).astype(kind))

    for tree in ensemble.trees:
        leaf = tree.leaf
        inner = np.flatnonzero(~leaf)
        place = np.where(leaf, np.cumsum(leaf) - 1 + leaves_before, np.cumsum(~leaf) - 1 + inner_before)
        roots.append(inner_before)
        add("leaf_targetids", np.full(int(leaf.sum()), tree.target))
        add("leaf_weights", tree.value[leaf], np.float32)
        if not len(inner):  # a root is no leaf here: both of its branches lead to the only one
            for name in ("nodes_featureids", "nodes_modes", "nodes_splits", "nodes_missing_value_tracks_true"):
                add(name, [0])
            for side in ("true", "false"):
                add(f"nodes_{side}nodeids", [leaves_before])
                add(f"nodes_{side}leafs", [1])
        else:
            by_set = np.isin(inner, list(tree.sets))
            add("nodes_featureids", tree.column[inner])
            add("nodes_modes", np.where(by_set, _MEMBER, _CODE_OF[ensemble.comparison]))
            add("nodes_splits", np.where(by_set, np.float32(0), tree.threshold[inner]), np.float32)
            add("nodes_missing_value_tracks_true", np.where(by_set, 0, tree.null_left[inner]))
            for side, children in (("true", tree.left[inner]), ("false", tree.right[inner])):
                add(f"nodes_{side}nodeids", place[children])
                add(f"nodes_{side}leafs", leaf[children])
            members += [part for node in inner[by_set] for part in (tree.sets[int(node)], [np.nan])]
        inner_before += max(len(inner), 1)
        leaves_before += int(leaf.sum())
    joined = {name: np.concatenate(arrays) for name, arrays in parts.items()}
    tensors: dict[str, Any] = {
        "nodes_modes": joined.pop("nodes_modes").astype(np.uint8),
        "nodes_splits": joined.pop("nodes_splits").astype(np.float32),
        "leaf_weights": joined.pop("leaf_weights"),
        "membership_values": np.concatenate(members).astype(np.float32),
    }
    summed = helper.make_node(
        "TreeEnsemble",
        [read],
        ["sum"],
        domain="ai.onnx.ml",
        n_targets=len(ensemble.base),
        aggregate_function=1,
        post_transform=0,
        tree_roots=roots,
        **{name: values.tolist() for name, values in joined.items()},
        **{name: numpy_helper.from_array(values, name) for name, values in tensors.items()},
    )
    constants.append(numpy_helper.from_array(np.array(ensemble.base, np.float32), "base"))
    return [summed, helper.make_node("Add", ["sum", "base"], [raw])]


def rounded_down(thresholds: Any) -> Any:
    """Return the largest float32 at or below each float64 threshold: for float32 x, `x <= t` is unchanged."""
    import numpy as np

    with np.errstate(over="ignore"):
        nearest = thresholds.astype(np.float32)
    return np.where(nearest.astype(np.float64) > thresholds, np.nextafter(nearest, np.float32(-np.inf)), nearest)
