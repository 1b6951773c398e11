"""The training loop of `tabular_network`: the only module that needs PyTorch to do anything."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import closing
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from rempart.errors import TrainingError
from rempart.training.attempts.process_group import Group, PeerLost
from rempart.training.trainers.network.batches import Batches, steps, steps_of
from rempart.training.trainers.network.settings import Settings

if TYPE_CHECKING:
    from rempart.training.attempts.progress import TrainingRun


def place(chosen: Settings) -> tuple[str, str]:
    """Return device and precision as words. Raises TrainingError if the requested ones are not available."""
    import torch

    there = torch.cuda.is_available()
    if chosen.device == "cuda" and not there:
        raise TrainingError(
            "tabular_network: 'device' is cuda, but PyTorch finds no GPU here",
            "Run the job on a pool with GPUs and a CUDA build of PyTorch, or set device: auto.",
        )
    device = "cuda" if there and chosen.device != "cpu" else "cpu"
    if device == "cpu" and chosen.precision == "float16":
        raise TrainingError(
            "tabular_network: 'precision' is float16, which needs a GPU", "Use auto, float32 or bfloat16."
        )
    if chosen.precision != "auto":
        return device, chosen.precision
    if device == "cpu":
        return device, "float32"
    return device, "bfloat16" if torch.cuda.is_bf16_supported() else "float16"


def settle(group: Group, device: str, precision: str) -> str:
    """Check that all nodes compute alike, and prepare their sums; the name of the library that makes them.

    Raises TrainingError when a node has another device or precision.
    """
    words = group.gather(f"{device} in {precision}")
    if len(set(words)) > 1:
        raise TrainingError(
            f"tabular_network: the nodes compute differently: {', '.join(words[:20])}",
            "Give each node a GPU (trainer.gpus), or set trainer.params.device and precision.",
        )
    return group.sum_on(device)


def learn(
    batches: Batches,
    rows: int,
    width: int,
    chosen: Settings,
    seed: int,
    classes: int,
    device: str,
    precision: str,
    run: TrainingRun | None,
) -> tuple[tuple[Any, Any], ...]:
    """Return weights and biases of each layer, float32. rows, width: of all batches together; classes: 0 for a
    regression.

    Several nodes share each batch: the sum of their results is the gradient of the whole batch, as on one node.
    """
    import torch

    torch.use_deterministic_algorithms(True)
    torch.manual_seed(seed)
    sizes = [width, *chosen.hidden, classes or 1]
    # made on the CPU: its generator is the same everywhere
    layers = [torch.nn.Linear(a, b) for a, b in pairwise(sizes)]
    modules: list[Any] = [layers[0]]
    for layer in layers[1:]:
        modules += [torch.nn.ReLU(), layer]
    network = torch.nn.Sequential(*modules).to(device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=chosen.learning_rate, weight_decay=chosen.weight_decay)
    scaler = torch.amp.GradScaler(device, enabled=precision == "float16")
    losses: dict[str, Any] = {"squared_error": torch.nn.MSELoss(), "absolute_error": torch.nn.L1Loss()}
    measure = torch.nn.CrossEntropyLoss() if classes else losses[chosen.loss]
    autocast = torch.autocast(device, dtype=getattr(torch, precision), enabled=precision != "float32")

    def loss_of(inputs: Any, wanted: Any) -> Any:
        with autocast:
            predicted = network(inputs)
        predicted = predicted.float()
        if not len(wanted):  # a node's share of a batch that has fewer rows than there are nodes
            return predicted.sum()
        return measure(predicted if classes else predicted[:, 0], wanted)

    group = run.group if run else Group()
    size = min(chosen.batch_size, rows)
    last = steps_of(rows, size, chosen.epochs)
    done = _restore(network, optimizer, scaler, arrays) if run and (arrays := run.resume()) is not None else 0
    planned = steps(rows, size, chosen.epochs, seed, done, group.rank, group.size)
    with closing(batches.each(planned)) as each:
        for step, inputs, wanted in each:
            for held in optimizer.param_groups:
                held["lr"] = _learning_rate(chosen.learning_rate, step.number, last)
            optimizer.zero_grad(set_to_none=True)
            if group.size == 1:
                loss = loss_of(inputs, wanted)
                scaler.scale(loss).backward()
            else:
                try:
                    loss = _shared(group, network, loss_of(inputs, wanted) * (len(wanted) / step.rows), scaler)
                except PeerLost:  # the weights are still those of the step before
                    if run:
                        run.keep(step.number, partial(_state, network, optimizer, scaler, step.number))
                    raise
            scaler.step(optimizer)
            scaler.update()
            done = step.number + 1
            if run:
                run.progress(done, last, loss.item)
                run.checkpoint(done, partial(_state, network, optimizer, scaler, done))
    return tuple((layer.weight.detach().cpu().numpy(), layer.bias.detach().cpu().numpy()) for layer in layers)


def _shared(group: Group, network: Any, loss: Any, scaler: Any) -> Any:
    """Write the gradient of a batch's mean loss into the network. Return that loss.

    loss: that of this node's share, times its part of the batch's rows: shares differ by a row.
    """
    import torch

    scaler.scale(loss).backward()
    gradients = [parameter.grad for parameter in network.parameters()]
    flat = torch.cat([*(gradient.reshape(-1) for gradient in gradients), loss.detach().reshape(1)])
    group.sum(flat)
    parts = flat[:-1].split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))
    return flat[-1]


def _learning_rate(highest: float, step: int, steps: int) -> float:
    """Return the learning rate: up in the first 5 % of the steps, then down to 1 % along a cosine."""
    warm = max(steps // 20, 1)
    if step < warm:
        return highest * (step + 1) / warm
    return highest * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(steps - warm, 1))))


def _state(network: Any, optimizer: Any, scaler: Any, step: int) -> dict[str, Any]:
    """Return all that the next step depends on: weights, AdamW's two moments of each, and float16's gradient scale."""
    import numpy as np

    arrays = {"step": np.array(step, np.int64)}
    for number, parameter in enumerate(network.parameters()):
        arrays[f"weight_{number}"] = parameter.detach().cpu().numpy()
        for name in ("exp_avg", "exp_avg_sq", "step"):
            if name in optimizer.state[parameter]:
                arrays[f"{name}_{number}"] = optimizer.state[parameter][name].detach().cpu().numpy()
    if scaler.is_enabled():
        held = scaler.state_dict()
        arrays["gradient_scale"] = np.array([held["scale"], held["_growth_tracker"]], np.float64)
    return arrays


def _restore(network: Any, optimizer: Any, scaler: Any, arrays: Mapping[str, Any]) -> int:
    """Put a stored state back; its step."""
    import torch

    parameters = list(network.parameters())
    fits = all(
        f"weight_{number}" in arrays and arrays[f"weight_{number}"].shape == tuple(parameter.shape)
        for number, parameter in enumerate(parameters)
    )
    if not fits or "step" not in arrays:
        raise TrainingError(
            "continue tabular_network: the checkpoint's weights belong to another network",
            "Delete the job's checkpoint.json and run the training again, from the start.",
        )
    moments = {
        number: {name: torch.from_numpy(arrays[f"{name}_{number}"]) for name in ("step", "exp_avg", "exp_avg_sq")}
        for number in range(len(parameters))
        if f"exp_avg_{number}" in arrays
    }
    with torch.no_grad():
        for number, parameter in enumerate(parameters):
            parameter.copy_(torch.from_numpy(arrays[f"weight_{number}"]))
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    if scaler.is_enabled() and "gradient_scale" in arrays:
        scale, tracker = arrays["gradient_scale"]
        scaler.load_state_dict({**scaler.state_dict(), "scale": float(scale), "_growth_tracker": int(tracker)})
    return int(arrays["step"])
