"""Fitted gradient-boosted trees as an ONNX model of standard operators.

Written here because the common converter (skl2onnx 1.20) fails on these trees with protobuf 7 (it hands booleans to an
integer field), and rounds thresholds to the nearest float32, which sends a row at a threshold down the other branch.
Operator: https://onnx.ai/onnx/operators/onnx_aionnxml_TreeEnsembleRegressor.html
"""

from __future__ import annotations

from typing import Any

INPUT, RAW, OUTPUT = "inputs", "raw", "predictions"


def convert(model: Any, columns: int) -> bytes:
    """Return a fitted HistGradientBoosting* model without categorical splits as ONNX bytes.

    One input `inputs`, float32 [n, columns], NaN for null; one output `predictions`: float32 [n, 1] of a regression
    with identity link, or the probabilities [n, classes].
    """
    import onnx
    from onnx import TensorProto, helper
    from sklearn.base import is_classifier

    per_iteration = len(model._predictors[0])
    classes = len(model.classes_) if is_classifier(model) else 0
    attributes: dict[str, Any] = _tree_attributes(model._predictors)
    trees = helper.make_node(
        "TreeEnsembleRegressor",
        [INPUT],
        [RAW if classes else OUTPUT],
        domain="ai.onnx.ml",
        n_targets=per_iteration,
        aggregate_function="SUM",
        post_transform="NONE",
        base_values=[float(value) for value in model._baseline_prediction.ravel()],
        **attributes,
    )
    nodes, constants = [trees], []
    if classes == 2:
        # one raw value a row: the log-odds of the second class
        constants.append(helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0]))
        nodes += [
            helper.make_node("Sigmoid", [RAW], ["second"]),
            helper.make_node("Sub", ["one", "second"], ["first"]),
            helper.make_node("Concat", ["first", "second"], [OUTPUT], axis=1),
        ]
    elif classes:
        nodes.append(helper.make_node("Softmax", [RAW], [OUTPUT], axis=1))
    graph = helper.make_graph(
        nodes,
        "gradient_boosting",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [None, columns])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [None, classes or 1])],
        constants,
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=8, producer_name="rempart")
    onnx.checker.check_model(proto)
    return bytes(proto.SerializeToString())


def _tree_attributes(iterations: Any) -> dict[str, list[Any]]:
    """Return every node of every tree, as the operator's parallel lists."""
    import numpy as np

    parts: dict[str, list[Any]] = {}

    def add(name: str, values: Any) -> None:
        parts.setdefault(name, []).append(np.asarray(values))

    flat = [(target, tree.nodes) for iteration in iterations for target, tree in enumerate(iteration)]
    for tree_id, (target, nodes) in enumerate(flat):
        leaf, ids = nodes["is_leaf"].astype(bool), np.arange(len(nodes))
        add("nodes_treeids", np.full(len(nodes), tree_id))
        add("nodes_nodeids", ids)
        add("nodes_featureids", np.where(leaf, 0, nodes["feature_idx"]))
        add("nodes_values", np.where(leaf, np.float32(0), _rounded_down(nodes["num_threshold"])))
        add("nodes_modes", np.where(leaf, "LEAF", "BRANCH_LEQ"))
        add("nodes_truenodeids", np.where(leaf, 0, nodes["left"]))
        add("nodes_falsenodeids", np.where(leaf, 0, nodes["right"]))
        add("nodes_missing_value_tracks_true", np.where(leaf, 0, nodes["missing_go_to_left"]))
        add("target_treeids", np.full(int(leaf.sum()), tree_id))
        add("target_nodeids", ids[leaf])
        add("target_ids", np.full(int(leaf.sum()), target))
        add("target_weights", nodes["value"][leaf])
    joined = {name: np.concatenate(arrays) for name, arrays in parts.items()}
    return {name: (a.astype(np.int64) if a.dtype.kind in "iub" else a).tolist() for name, a in joined.items()}


def _rounded_down(thresholds: Any) -> Any:
    """Return the largest float32 at or below each float64 threshold: for float32 x, `x <= t` is unchanged."""
    import numpy as np

    nearest = thresholds.astype(np.float32)
    return np.where(nearest.astype(np.float64) > thresholds, np.nextafter(nearest, np.float32(-np.inf)), nearest)
