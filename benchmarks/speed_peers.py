"""
Rows of peers that are installed: one layer, its draw included, forward and backward.

They say where the package stands, and guard against a claim about peers that nobody measured.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module, metadata
from typing import Any

from torch import Tensor

from benchmarks.speed_layer import DROP_PROB, Layer, draw_program, sizes
from benchmarks.speed_timing import Case, Program, Setting, Shape, compare

SHAPE: Shape = (35, 20, 200)
PACKAGES = ("blitz-bayesian-pytorch", "bayesian-torch", "keras")


def installed(package: str) -> str | None:
    """Return the version of a package, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _trained(module: Callable[[Tensor], Any], layer: Layer, parameters: list[Tensor]) -> Program:
    """Return a call of a batch-first module, forward and backward."""
    x = layer.x.detach().transpose(0, 1).contiguous().requires_grad_()
    into = layer.into.transpose(0, 1).contiguous()

    def run() -> None:
        for leaf in (x, *parameters):
            leaf.grad = None
        output = module(x)
        (output[0] if isinstance(output, tuple) else output).backward(into)

    return run


def _blitz(layer: Layer) -> Program:
    module = import_module("blitz.modules").BayesianLSTM(*layer.shape[2:] * 2)
    return _trained(module.to(layer.x.device), layer, list(module.parameters()))


def _bayesian_torch(layer: Layer) -> Program:
    module = import_module("bayesian_torch.layers").LSTMReparameterization(*layer.shape[2:] * 2)
    return _trained(module.to(layer.x.device), layer, list(module.parameters()))


def _keras(layer: Layer) -> Program:
    os.environ.setdefault("KERAS_BACKEND", "torch")
    keras = import_module("keras")
    if keras.backend.backend() != "torch":
        raise RuntimeError(f"Expected keras with the torch backend, got {keras.backend.backend()}.")
    device = "gpu" if layer.x.is_cuda else "cpu"
    with keras.device(device):
        module = keras.layers.LSTM(
            layer.shape[2], return_sequences=True, recurrent_dropout=DROP_PROB, dropout=DROP_PROB
        )
        module.build((layer.shape[1], layer.shape[0], layer.shape[2]))
    parameters = [v.value for v in module.trainable_variables]
    return _trained(partial(module, training=True), layer, parameters)


def _ours(layer: Layer, variant: str) -> Program:
    scope = "batch" if variant == "batch" else "sequence"
    draw = draw_program(layer, scope, noise=variant != "untied")
    return lambda: layer.run(draw())


def _measure(setting: Setting, build: Callable[[Layer], Program]) -> dict[str, Any]:
    layer = Layer("LSTM", SHAPE, setting.device)
    return compare(setting, layer.reference, build(layer))


def cases(setting: Setting) -> Iterator[Case]:
    """Yield a row for each peer that is installed, and for ours with its draw."""
    rows: list[tuple[str, Callable[[Layer], Program]]] = [
        ("ours, batch scope, masks and noise", partial(_ours, variant="batch")),
        ("ours, sequence scope, masks only", partial(_ours, variant="untied")),
        ("ours, sequence scope, masks and noise", partial(_ours, variant="noise")),
    ]
    for package, text, build in (
        ("blitz-bayesian-pytorch", "blitz BayesianLSTM", _blitz),
        ("bayesian-torch", "bayesian-torch LSTMReparameterization", _bayesian_torch),
        ("keras", "keras LSTM with recurrent_dropout (torch)", _keras),
    ):
        if installed(package):
            rows.append((text, build))
    for text, build in rows:
        what = f"{text}, draw included"
        yield Case("peers", what, sizes(SHAPE), None, partial(_measure, build=build))
