r"""
Recurrent layers by hand-written forward and backward passes.

For weights that no library kernel takes: a mask for each sequence
(:class:`~pyro_vrnn.ops.weights.MaskedWeight`), or S particles. The input's product is made for all
steps at once, the activated gates are kept, and each weight gradient is one product over all steps.
A second derivative is refused; the reference path has one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vrnn.ops.cell_kernels import KERNELS, Gates, Steps
from pyro_vrnn.ops.cells import GATES, State
from pyro_vrnn.ops.products import BatchedProduct, MaskedProduct
from pyro_vrnn.ops.weights import LayerWeights, MaskedWeight

_WINDOW = 2**20  # gates held at a time where no gradient needs them all

Weight = Tensor | MaskedWeight


def run_unrolled(
    mode: str,
    x: Tensor,  # (T, N, D) or (S, T, N, D)
    state: State,  # each (L*R, N, H) or (L*R, S, N, H)
    weights: Sequence[LayerWeights],
    *,
    particles: int = 0,
    bidirectional: bool = False,
    lengths: Tensor | None = None,
) -> tuple[Tensor, State]:
    """
    Run the stack; arguments as in :func:`~pyro_vrnn.ops.recurrent.recurrent`.

    :param int particles: S, or 0 if nothing has a particle dim.
    """
    order: Tensor | None = None
    running: Tensor | None = None
    active: list[int] | None = None
    if lengths is not None and int(lengths.min()) < x.shape[-3]:
        longest, order = lengths.sort(descending=True, stable=True)
        steps = torch.arange(x.shape[-3])
        active = (longest > steps.unsqueeze(-1)).sum(-1).tolist()
        order = order.to(x.device)
        running = (steps.unsqueeze(-1) < longest).unsqueeze(-1).to(x.device)  # (T, N, 1)
        x = torch.where(running, x.index_select(-2, order), 0.0)  # padding may be NaN
        state = tuple(s.index_select(-2, order) for s in state)
        weights = [_reorder(layer, order) for layer in weights]
    directions = 2 if bidirectional else 1
    finals: list[State] = []
    for first in range(0, len(weights), directions):
        outputs = []
        for k in range(first, first + directions):
            steps_of = Steps(x.shape[-3], x.shape[-2], reverse=k > first, active=active)
            output, final = _run_layer(
                mode, x, tuple(s[k] for s in state), weights[k], steps_of, particles
            )
            outputs.append(output)
            finals.append(final)
        x = outputs[0] if directions == 1 else torch.cat(outputs, dim=-1)
    last = tuple(torch.stack(parts) for parts in zip(*finals, strict=True))
    if order is None:
        return x, last
    assert running is not None
    back = order.argsort()
    x = torch.where(running, x, 0.0).index_select(-2, back)
    return x, tuple(s.index_select(-2, back) for s in last)


def _reorder(layer: LayerWeights, order: Tensor) -> LayerWeights:
    ih, hh = (
        w.index_select(order) if isinstance(w, MaskedWeight) else w
        for w in (layer.weight_ih, layer.weight_hh)
    )
    return layer._replace(weight_ih=ih, weight_hh=hh)


def _run_layer(
    mode: str, x: Tensor, state: State, weights: LayerWeights, steps: Steps, particles: int
) -> tuple[Tensor, State]:
    groups = {w.mask.shape[1] for w in weights[:2] if isinstance(w, MaskedWeight)} or {1}
    if not groups <= {1, GATES[mode]}:
        raise ValueError(
            f"Expected masks for 1 or {GATES[mode]} parts of the rows (the gates), got {groups}."
        )
    ih, hh = (
        w if isinstance(w, MaskedWeight) else (w, None, None)
        for w in (weights.weight_ih, weights.weight_hh)
    )
    tensors = (x, *ih, *hh, weights.bias_ih, weights.bias_hh, *state)
    save = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    layer = _Layer(mode, steps, particles, max(groups), save)
    output, *final = _Unrolled.apply(layer, *tensors)  # type: ignore[no-untyped-call]
    return output, tuple(final)


@dataclass(frozen=True)
class _Layer:
    """What the layer's function is told besides tensors."""

    mode: str
    steps: Steps
    particles: int  # S, or 0 for none
    matrices: int  # products, with rows and masks of their own, that a step is made of
    save: bool  # whether a gradient will be asked for

    def product(self, weight: Tensor, mask: Tensor | None, noise: Tensor | None) -> Any:
        if self.particles:
            return BatchedProduct(weight, self.particles)
        return MaskedProduct(
            weight if mask is None else MaskedWeight(weight, mask, noise), self.matrices
        )

    def new_gates(self, like: Tensor, hidden: int, num_steps: int) -> Gates:
        rows = GATES[self.mode] * hidden // (1 if self.particles else self.matrices)
        matrices = self.particles or self.matrices
        buffer = like.new_empty(matrices, num_steps, self.steps.num_sequences, rows)
        return self.gates(buffer)

    def gates(self, buffer: Tensor) -> Gates:
        return Gates(buffer, GATES[self.mode], bool(self.particles))

    def new_extra(self, h: Tensor, state: State) -> Tensor | Sequence[Tensor]:
        """Return room for what a cell keeps besides h: an LSTM's c, a GRU's recurrent part of n."""
        steps = self.steps
        if self.mode == "LSTM":
            if self.save:
                c: Tensor | list[Tensor] = torch.empty_like(h)
            else:  # two that take turns
                turns = torch.empty_like(h[:2]).unbind(0)
                c = [turns[t % 2] for t in range(len(h))]
            c[steps.first].copy_(state[1])
            return c
        if self.mode == "GRU":
            return torch.empty_like(h[1:] if self.save else h[:1])
        return ()

    def windows(self, numbers_a_step: int) -> Iterator[slice]:
        """Yield all steps, or pieces of bounded memory, in the order of the recurrence."""
        steps = self.steps
        size = steps.num_steps if self.save else max(1, _WINDOW // max(numbers_a_step, 1))
        starts = range(0, steps.num_steps, size)
        for start in reversed(starts) if steps.reverse else starts:
            yield slice(start, min(start + size, steps.num_steps))

    def biases(
        self, bias_ih: Tensor | None, bias_hh: Tensor | None, hidden: int
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return what is added for all steps at once, and what waits for a GRU's reset gate."""
        if bias_ih is None or bias_hh is None:
            return None, None
        if self.mode != "GRU":
            return bias_ih + bias_hh, None
        outside = bias_hh.clone()
        outside[..., 2 * hidden :] = 0
        return bias_ih + outside, bias_hh[..., 2 * hidden :].unsqueeze(-2)


class _Unrolled(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        layer: _Layer,
        x: Tensor,
        weight_ih: Tensor,
        mask_ih: Tensor | None,
        noise_ih: Tensor | None,
        weight_hh: Tensor,
        mask_hh: Tensor | None,
        noise_hh: Tensor | None,
        bias_ih: Tensor | None,
        bias_hh: Tensor | None,
        *state: Tensor,
    ) -> tuple[Tensor, ...]:
        kernel, steps, hidden = KERNELS[layer.mode], layer.steps, weight_hh.shape[-1]
        shape = (*((layer.particles,) if layer.particles else ()), steps.num_sequences, hidden)
        h = x.new_empty(steps.num_steps + 1, *shape)
        h[steps.first] = state[0]
        extra = layer.new_extra(h, state)
        from_input = layer.product(weight_ih, mask_ih, noise_ih)
        recurrent = layer.product(weight_hh, mask_hh, noise_hh)
        recurrent.prepare_steps(steps.num_sequences)
        bias, bias_n = layer.biases(bias_ih, bias_hh, hidden)
        states = h.unbind(0)
        gates: Gates | None = None
        for window in layer.windows(GATES[layer.mode] * h[0].numel()):
            num_steps = window.stop - window.start
            if gates is None or gates.buffer.shape[1] != num_steps:
                gates = layer.new_gates(x, hidden, num_steps)
            from_input.fill(x.narrow(-3, window.start, num_steps), gates.buffer, bias)
            kernel.forward(
                steps.forward(window), window.start, gates, states, extra, recurrent, bias_n
            )
        assert gates is not None
        if layer.save:
            ctx.set_materialize_grads(False)
            ctx.layer = layer
            ctx.save_for_backward(
                *(x, weight_ih, mask_ih, noise_ih, weight_hh, mask_hh, noise_hh, bias_ih, bias_hh),
                *(h, extra if isinstance(extra, Tensor) else None),
                *(gates.buffer if kernel.keeps_gates else None, *state),
            )
        last = [h[steps.last].clone()]
        if layer.mode == "LSTM":
            last.append(extra[steps.last].clone())
        output = h[steps.new]
        return output.transpose(0, 1) if layer.particles else output, *last

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise NotImplementedError(
                "Expected one differentiation of a recurrent layer on the unrolled path, got "
                "create_graph=True: only path='reference' has a second derivative."
            )
        layer: _Layer = ctx.layer
        x, *ih, weight_hh, mask_hh, noise_hh, bias_ih, bias_hh = ctx.saved_tensors[:9]
        h, extra, buffer, *state = ctx.saved_tensors[9:]
        kernel, steps = KERNELS[layer.mode], layer.steps
        recurrent = layer.product(weight_hh, mask_hh, noise_hh)
        recurrent.prepare_steps(steps.num_sequences)
        if buffer is None:
            gates = layer.new_gates(h, weight_hh.shape[-1], steps.num_steps)
        else:
            gates = layer.gates(buffer)
        outputs = grads[0]
        if outputs is not None and layer.particles:
            outputs = outputs.transpose(0, 1)
        of_last = [torch.zeros_like(h[0]) if g is None else g.clone() for g in grads[1:]]
        for_input, for_recurrent, of_first = kernel.backward(
            steps, gates, h, extra, recurrent, outputs, of_last
        )
        from_input = layer.product(*ih)
        old = h[steps.old]
        needs_x, *needs = ctx.needs_input_grad[1:]
        return (
            None,
            from_input.input_grad(for_input, x.dim()) if needs_x else None,
            *_weight_grads(from_input, for_input, x, needs[:3]),
            *_weight_grads(
                recurrent,
                for_recurrent,
                old.transpose(0, 1) if layer.particles else old,
                needs[3:6],
            ),
            _bias_grad(for_input, bias_ih, needs[6]),
            _bias_grad(for_recurrent, bias_hh, needs[7]),
            *(g if s.dim() == g.dim() else g.sum(0) for g, s in zip(of_first, state, strict=True)),
        )


def _weight_grads(
    product: MaskedProduct | BatchedProduct, grad: Tensor, x: Tensor, needs: Sequence[bool]
) -> tuple[Tensor | None, None, Tensor | None]:
    if not needs[0] and not needs[2]:
        return None, None, None
    loc, noise = product.weight_grad(grad, x, noise_too=needs[2])
    return loc, None, noise


def _bias_grad(grad: Tensor, bias: Tensor | None, needed: bool) -> Tensor | None:
    if bias is None or not needed:
        return None
    total = grad.sum((1, 2))
    if bias.dim() == 2:
        return total
    # The rows of B matrices are the bias's parts; particles share one bias.
    return total.flatten() if total.numel() == bias.numel() else total.sum(0)
