"""
Rows of one recurrent layer, forward and backward, against ``nn.LSTM`` and its like.

Guard against a layer that leaves the library's kernel where it need not (batch scope), and against
a Python loop whose cost a step outgrows its products (sequence scope, particles).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from benchmarks.speed_timing import (
    GATES,
    Case,
    Setting,
    Shape,
    compare,
    fresh_grads,
    layer_products,
    with_counts,
)
from pyro_vrnn.distributions import BlockDropout, SpikeAndSlab
from pyro_vrnn.distributions.sequence_draw import SequenceCount, SequenceDraw
from pyro_vrnn.ops.recurrent import LayerWeights, recurrent
from pyro_vrnn.ops.weights import MaskedWeight

SHAPES: tuple[Shape, ...] = ((35, 20, 200), (35, 20, 650), (200, 128, 128))
LARGE: Shape = (35, 20, 1500)
DROP_PROB, SCALE = 0.25, 0.01
MODES = {"LSTM": torch.nn.LSTM, "GRU": torch.nn.GRU, "RNN": torch.nn.RNN}
VARIANTS = {
    "batch": "batch scope",
    "untied": "sequence scope, untied gates, masks only",
    "tied": "sequence scope, tied gates, masks only",
    "noise": "sequence scope, untied gates, masks and noise",
}


def ops_mode(mode: str) -> str:
    """Return the name that :func:`recurrent` has for a module of torch.nn."""
    return "RNN_TANH" if mode == "RNN" else mode


class Layer:
    """One layer of torch.nn, and ours on leaves with the same values."""

    def __init__(self, mode: str, shape: Shape, device: torch.device) -> None:
        self.mode, self.shape = mode, shape
        steps, sequences, hidden = shape
        self.module = MODES[mode](hidden, hidden, device=device)
        self.x = torch.randn(steps, sequences, hidden, device=device, requires_grad=True)
        self.into = torch.randn(steps, sequences, hidden, device=device)
        values = [p.detach().clone() for p in self.module.parameters()]  # ih, hh, biases
        self.leaves = [v.requires_grad_() for v in values]
        self.own_x = self.x.detach().clone().requires_grad_()

    def state(self) -> tuple[Tensor, ...]:
        """Return a state of zeros, which torch.nn makes in a call too."""
        zeros = self.x.new_zeros(1, *self.shape[1:])
        return (zeros, zeros) if self.mode == "LSTM" else (zeros,)

    def masked(self, variant: str, *, drop_prob: float = DROP_PROB) -> LayerWeights:
        """Return weights of a variant, whose masks and noise are drawn here."""
        ih, hh, *biases = self.leaves
        if variant == "batch":
            return LayerWeights(ih, hh, *biases)
        groups = 1 if variant == "tied" else GATES[self.mode]
        keep = torch.full((self.shape[1], groups, self.shape[2]), 1 - drop_prob, device=ih.device)
        parts = []
        for weight in (ih, hh):
            noise = SCALE * torch.randn_like(weight) if variant == "noise" else None
            parts.append(MaskedWeight(weight, keep.bernoulli(), noise))
        return LayerWeights(*parts, *biases)

    def forget(self) -> None:
        """Drop all gradients."""
        fresh_grads([self.x, self.own_x, *self.leaves, *self.module.parameters()])

    def reference(self, lengths: Tensor | None = None) -> Tensor:
        """Run torch's, forward and backward; packed, with lengths."""
        fresh_grads([self.x, *self.module.parameters()])
        if lengths is None:
            output = self.module(self.x)[0]
        else:
            packed = pack_padded_sequence(self.x, lengths, enforce_sorted=False)
            output = pad_packed_sequence(self.module(packed)[0], total_length=self.shape[0])[0]
        output.backward(self.into)
        return output

    def run(
        self, weights: LayerWeights, path: str = "auto", lengths: Tensor | None = None
    ) -> Tensor:
        """Run ours, forward and backward."""
        fresh_grads([self.own_x, *self.leaves])
        mode = ops_mode(self.mode)
        output, _ = recurrent(mode, self.own_x, self.state(), [weights], path=path, lengths=lengths)
        output.backward(self.into)
        return output

    def check(self, variant: str) -> None:
        """Hold ours to torch's where nothing is dropped: values and gradients."""
        if variant == "noise":
            return
        output, expected = self.run(self.masked(variant, drop_prob=0.0)), self.reference()
        for a, b in ((output, expected), (self.own_x.grad, self.x.grad)):
            gap = ((a - b).norm() / b.norm()).item()
            if gap > 1e-4:
                raise AssertionError(f"Expected what nn.{self.mode} gives, got a gap of {gap:.1e}.")


def _measure_layer(
    setting: Setting, mode: str, variant: str, shape: Shape, path: str = "auto"
) -> dict[str, Any]:
    layer = Layer(mode, shape, setting.device)
    layer.check(variant)
    weights = layer.masked(variant)
    found = compare(setting, layer.reference, partial(layer.run, weights, path))
    noisy = layer_products(mode, shape, noise=variant == "noise")
    return with_counts(setting, found, layer_products(mode, shape), noisy)


def _measure_lengths(setting: Setting, mode: str, shape: Shape) -> dict[str, Any]:
    layer = Layer(mode, shape, setting.device)
    weights, steps = layer.masked("batch"), shape[0]
    lengths = torch.randint(steps // 4, steps + 1, shape[1:2])
    output, expected = layer.run(weights, lengths=lengths), layer.reference(lengths)
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-4)
    found = compare(
        setting, partial(layer.reference, lengths), partial(layer.run, weights, lengths=lengths)
    )
    share = float(lengths.sum()) / (steps * shape[1])
    count = share * layer_products(mode, shape)
    return with_counts(setting, found, count, count)


def draw_program(layer: Layer, scope: str, noise: bool) -> Callable[[], LayerWeights]:
    """Return what draws the weights and biases of a layer, as the guide does in training."""
    hidden, sequences = layer.shape[2], layer.shape[1]

    def q(weight: Tensor, drop_prob: float, block: tuple[int, ...]) -> SpikeAndSlab:
        return (
            SpikeAndSlab(weight, SCALE, drop_prob, block)
            if noise
            else BlockDropout(weight, drop_prob, block)
        )

    def draw() -> LayerWeights:
        count = SequenceCount()
        values: list[Any] = []
        for k, weight in enumerate(layer.leaves):
            if weight.dim() == 1:  # a bias is never dropped
                values.append(q(weight, 0.0, tuple(weight.shape)).rsample())
            elif scope == "batch":
                values.append(q(weight, DROP_PROB, (hidden, 1)).rsample())
            else:
                one = SequenceDraw(q(weight, DROP_PROB, (hidden, 1)), f"weight {k}", count)
                values.append(one.masked_weight(sequences))
        return LayerWeights(*values)

    return draw


def _measure_draw(setting: Setting, shape: Shape, scope: str, noise: bool) -> dict[str, Any]:
    layer = Layer("LSTM", shape, setting.device)
    found = compare(setting, layer.reference, draw_program(layer, scope, noise))
    weights = sum(leaf.numel() for leaf in layer.leaves)
    return found | {"weights": weights}


def _measure_particles(
    setting: Setting, shape: Shape, particles: int, grad: bool
) -> dict[str, Any]:
    sequences, hidden = shape[1:]
    device = setting.device
    modules = [torch.nn.LSTM(hidden, hidden, device=device) for _ in range(particles)]
    x = torch.randn(shape, device=device, requires_grad=grad)
    own_x = x.detach().clone().requires_grad_(grad)
    stacked = [
        torch.stack([p.detach() for p in ps])
        for ps in zip(*(m.parameters() for m in modules), strict=True)
    ]
    leaves = [w.requires_grad_(grad) for w in stacked]
    into = torch.randn(shape, device=device)
    parameters = [p for m in modules for p in m.parameters()]
    zeros = x.new_zeros(1, sequences, hidden)

    def reference() -> None:
        fresh_grads([x, *parameters])
        for module in modules:
            output = module(x)[0]
            if grad:
                output.backward(into)

    def ours() -> None:
        fresh_grads([own_x, *leaves])
        output, _ = recurrent("LSTM", own_x, (zeros, zeros), [LayerWeights(*leaves)])
        if grad:
            output.backward(into.expand_as(output))

    with torch.set_grad_enabled(grad):
        found = compare(setting, reference, ours)
    count = particles * layer_products("LSTM", shape, grad=grad)
    return with_counts(setting, found, count, count)


def _target(variant: str, shape: Shape) -> float:
    if variant == "batch":
        return 1.05
    if variant == "noise":
        return 1.8
    return 1.5 if shape[2] == 200 else 1.25


def sizes(shape: Shape) -> dict[str, int]:
    """Return a shape with its letters."""
    return dict(zip("TNH", shape, strict=True))


def cases(setting: Setting) -> Iterator[Case]:
    """Yield the rows."""
    shapes = SHAPES[:1] if setting.quick else SHAPES
    if setting.large:
        shapes = (*shapes, LARGE)
    for shape in shapes:
        for mode in MODES:
            for variant, text in VARIANTS.items():
                if mode == "RNN" and (variant == "tied" or shape != SHAPES[0]):
                    continue  # one gate: nothing to tie
                target = None if variant == "tied" else _target(variant, shape)
                measure = partial(_measure_layer, mode=mode, variant=variant, shape=shape)
                yield Case("layer", f"{mode}, {text}", sizes(shape), target, measure, f"nn.{mode}")
            if mode != "RNN":
                measure = partial(_measure_lengths, mode=mode, shape=shape)
                what, reference = f"{mode}, batch scope, lengths", f"nn.{mode}, packed"
                yield Case("layer", what, sizes(shape), 1.05, measure, reference)
                # What no generated code costs.
                measure = partial(
                    _measure_layer, mode=mode, variant="untied", shape=shape, path="unrolled"
                )
                what = f"{mode}, {VARIANTS['untied']}, torch's operations"
                yield Case("layer", what, sizes(shape), None, measure, f"nn.{mode}")
        for scope in ("batch", "sequence"):
            for noise in (False, True):
                what = f"draw, {scope} scope, {'masks and noise' if noise else 'masks only'}"
                measure = partial(_measure_draw, shape=shape, scope=scope, noise=noise)
                yield Case("draw", what, sizes(shape), None, measure)
    for shape, particles in ((SHAPES[0], 10), ((35, 1, 32), 64)):
        for grad in (True, False):
            what = "particles, forward and backward" if grad else "particles, forward"
            measure = partial(_measure_particles, shape=shape, particles=particles, grad=grad)
            yield Case(
                "layer", what, {"S": particles, **sizes(shape)}, None, measure, "S x nn.LSTM"
            )
