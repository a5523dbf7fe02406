r"""
Recurrent layers by hand-written forward and backward passes.

For weights that no library kernel takes: a mask for each sequence
(:class:`~pyro_vrnn.ops.weights.MaskedWeight`), or S particles; in compiled code for any weights.
Forward, the input's product is made for a piece of steps at a time, right before these steps; the
activated gates are kept. Backward, each weight gradient is one product over a window of many steps,
for which the gates' gradients wait in memory that the next window uses again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_vrnn.ops.cell_kernels import KERNELS, Piece, Steps, gate_major
from pyro_vrnn.ops.cells import State
from pyro_vrnn.ops.layer_shapes import check_layer
from pyro_vrnn.ops.layer_steps import WindowSteps
from pyro_vrnn.ops.products import Product, ProductGrads
from pyro_vrnn.ops.reference import still_running
from pyro_vrnn.ops.second_order import differentiable_grads
from pyro_vrnn.ops.spanned import SpannedNoise
from pyro_vrnn.ops.unrolled_layer import UnrolledLayer
from pyro_vrnn.ops.weights import LayerWeights, MaskedWeight, SequenceBias, dtype_of


def run_unrolled(
    mode: str,
    x: Tensor,  # (T, N, D) or (S, T, N, D)
    state: State,  # each (L*R, N, H) or (L*R, S, N, H)
    weights: Sequence[LayerWeights],
    *,
    particles: int = 0,
    bidirectional: bool = False,
    lengths: Tensor | None = None,
    path: str = "unrolled",
) -> tuple[Tensor, State]:
    """
    Run the stack; arguments as in :func:`~pyro_vrnn.ops.recurrent.recurrent`.

    :param int particles: S, or 0 if nothing has a particle dim.
    :param str path: who runs the steps: ``"unrolled"`` for torch's operations, ``"compiled"``,
        ``"triton"``.
    """
    if torch.is_autocast_enabled(x.device.type):  # these passes know one dtype, the weights'
        dtype = dtype_of(weights)
        with torch.autocast(x.device.type, enabled=False):
            return run_unrolled(
                *(mode, x.to(dtype), tuple(s.to(dtype) for s in state), weights),
                particles=particles, bidirectional=bidirectional, lengths=lengths,
                path=path,
            )  # fmt: skip
    order: Tensor | None = None
    running: Tensor | None = None
    active: list[int] | None = None
    if lengths is not None and int(lengths.min()) < x.shape[-3]:
        longest, order = lengths.sort(descending=True, stable=True)
        running = still_running(longest, x.shape[-3], longest.device)
        active = running.sum((1, 2)).tolist()
        order, running = (t.to(x.device, non_blocking=True) for t in (order, running))
        x = torch.where(running, x.index_select(-2, order), 0.0)  # padding may be NaN
        state = tuple(s.index_select(-2, order) for s in state)
        weights = [_reorder(layer, order) for layer in weights]
    directions = 2 if bidirectional else 1
    finals: list[State] = []
    for first in range(0, len(weights), directions):
        outputs = []
        for k in range(first, first + directions):
            steps_of = Steps(x.shape[-3], x.shape[-2], reverse=k > first, active=active)
            initial = tuple(s[k] for s in state)
            output, final = _run_layer(mode, x, initial, weights[k], steps_of, particles, path)
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
    def of(w: Any) -> Any:
        return w.index_select(order) if isinstance(w, (MaskedWeight, SequenceBias)) else w

    return LayerWeights(*map(of, layer))


def _run_layer(
    mode: str,
    x: Tensor,
    state: State,
    weights: LayerWeights,
    steps: Steps,
    particles: int,
    path: str,
) -> tuple[Tensor, State]:
    x, state, weights = check_layer(mode, x, state, weights, particles)
    ih, hh = (
        w if isinstance(w, MaskedWeight) else (w, None, None)
        for w in (weights.weight_ih, weights.weight_hh)
    )
    biases = [b.value if isinstance(b, SequenceBias) else b for b in weights[2:]]
    tensors = (x, *ih, *hh, *biases, *state)
    dtypes = {t.dtype for t in tensors if t is not None}
    if len(dtypes) > 1:  # a product into memory of another dtype would pass, rounded
        names = sorted(str(d) for d in dtypes)
        raise ValueError(f"Expected input, state and weights of one dtype, got {', '.join(names)}.")
    places = {str(t.device) for t in tensors if isinstance(t, Tensor)}
    if len(places) > 1:
        found = ", ".join(sorted(places))
        raise ValueError(f"Expected input, state and weights on one device, got {found}.")
    save = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    if save and any(isinstance(w, (SpannedNoise, SequenceBias)) for w in (*ih, *hh, *weights[2:])):
        raise NotImplementedError(
            "Expected no gradient of a layer with noise or biases for each sequence, got something "
            "that requires grad: use torch.no_grad()."
        )
    layer = UnrolledLayer(mode, steps, particles, save, path)
    output, *final = _Unrolled.apply(layer, *tensors)  # type: ignore[no-untyped-call]
    return output, tuple(final)


class _Unrolled(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        layer: UnrolledLayer,
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
        steps, hidden = layer.steps, weight_hh.shape[-1]
        leading = (layer.particles,) if layer.particles else ()
        h = layer.new(x, steps.num_steps + 1, *leading, steps.num_sequences, hidden)
        h[steps.first] = state[0]
        extra, gates = layer.extra(h, state), layer.gates(h)
        from_input = layer.product(weight_ih, mask_ih, noise_ih)
        recurrent = layer.product(weight_hh, mask_hh, noise_hh)
        biases = layer.biases(bias_ih, bias_hh, hidden)
        if layer.compiled:
            run = layer.compiled_steps(recurrent, weight_hh)
            run.forward(steps, x, layer.parts(from_input, weight_ih), biases, gates, h, extra)
        else:
            by_window = layer.window_steps(recurrent, weight_hh)
            _run_windows(layer, by_window, x, from_input, biases, gates, h, extra)
        if layer.save:
            ctx.set_materialize_grads(False)
            ctx.layer = layer
            ctx.save_for_backward(
                *(x, weight_ih, mask_ih, noise_ih, weight_hh, mask_hh, noise_hh, bias_ih, bias_hh),
                *(h, extra, gates if KERNELS[layer.mode].keeps_gates else None, *state),
            )
        last = [h[steps.last].clone()]
        if layer.mode == "LSTM":
            assert extra is not None
            last.append(extra[steps.last].clone())
        output = h[steps.new(slice(0, steps.num_steps))]
        return output.transpose(0, 1) if layer.particles else output, *last

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        saved, needs = ctx.saved_tensors, ctx.needs_input_grad[1:]
        if torch.is_grad_enabled() or not all(map(_has_memory, grads)):
            # Under create_graph, or vmap: by operations that can be differentiated, or mapped.
            return None, *differentiable_grads(ctx.layer, (*saved[:9], *saved[12:]), grads, needs)
        backward = _Backward(ctx.layer, saved, grads, needs)
        with torch.autocast(backward.h.device.type, enabled=False):
            return None, *backward.run()


def _run_windows(
    layer: UnrolledLayer,
    run: WindowSteps,
    x: Tensor,
    from_input: Product,
    biases: tuple[Tensor | None, Tensor | None],
    gates: Tensor | None,
    h: Tensor,
    extra: Tensor | None,
) -> None:
    """Run forward, with the input's product made right before the steps that it is for."""
    bias, bias_n = biases
    rows = layer.rows(x, h.shape[-1], 1)
    windows = layer.pieces(rows)
    for window in windows:
        num_steps = window.stop - window.start
        if rows.shape[-3] != num_steps:
            rows = layer.rows(x, h.shape[-1], num_steps)
        from_input.fill(x.narrow(-3, window.start, num_steps), rows, bias)
        if window == windows[-1]:
            from_input.release()
        run.forward(layer.steps, window, rows, gates, h, extra, bias_n)


def _has_memory(grad: Tensor | None) -> bool:
    try:
        return grad is None or grad.data_ptr() is not None
    except RuntimeError:  # a batch of gradients, under vmap
        return False


class _Backward:
    """
    The backward pass of a layer, window by window.

    What it writes over is its own: the saved tensors may serve a second backward pass.
    """

    def __init__(
        self,
        layer: UnrolledLayer,
        saved: Sequence[Tensor],  # as saved by the forward pass
        grads: Sequence[Tensor | None],  # of the outputs and the last state
        needs: Sequence[bool],  # which of the forward pass's tensors need a gradient
    ) -> None:
        self.layer, self.needs = layer, needs
        self.x, *ih, weight_hh, mask_hh, noise_hh, self.bias_ih, self.bias_hh = saved[:9]
        self.h, self.extra, self.gates, *self.state = saved[9:]
        self.hidden = self.h.shape[-1]
        self.from_input = layer.product(*ih)
        self.recurrent = layer.product(weight_hh, mask_hh, noise_hh)
        self.steps = layer.steps_with(self.recurrent, weight_hh)
        self.outputs = self._time_first(grads[0])
        if self.outputs is not None and layer.path != "unrolled":
            self.outputs = self.outputs.contiguous()
        self.of_state = [
            torch.zeros_like(self.h[0])
            if g is None
            else g.clone(memory_format=torch.contiguous_format)
            for g in grads[1:]
        ]
        self.for_x = self.x.new_empty(self.x.shape) if needs[0] else None
        self.inner: Tensor | None = None  # of a window of a GRU, see Piece
        self.sums = _Sums()

    def _time_first(self, x: Any) -> Any:  # (S, T, N, H) <-> (T, S, N, H)
        return x if x is None or not self.layer.particles else x.transpose(0, 1)

    def run(self) -> tuple[Tensor | None, ...]:
        """Return the gradients of the forward pass's tensors."""
        one_step = self.layer.rows(self.h, self.hidden, 1)
        windows = self.layer.windows(one_step)
        for window in reversed(windows):
            num_steps = window.stop - window.start
            rows = self.layer.rows(self.h, self.hidden, num_steps)
            if self.layer.mode == "GRU":
                self.inner = self.h.new_empty(num_steps, *self.h.shape[1:])
            for piece in reversed(self.layer.pieces(one_step, window)):
                self._run_steps(piece, window, rows)
            if window == windows[0]:
                self.steps.release()  # memory peaks below
            self._multiply(window, rows)
        of = self.sums.of
        return (
            *(self.for_x, of("weight_ih"), None, of("noise_ih")),
            *(of("weight_hh"), None, of("noise_hh"), of("bias_ih"), of("bias_hh")),
            *(
                grad if grad.dim() == state.dim() else grad.sum(0)
                for grad, state in zip(self.of_state, self.state, strict=True)
            ),
        )

    def _run_steps(self, part: slice, window: slice, rows: Tensor) -> None:
        """Write the gates' gradients of some steps of a window."""
        here = slice(part.start - window.start, part.stop - window.start)
        piece = Piece(
            steps=self.layer.steps,
            window=part,
            gates=self.gates,
            h=self.h,
            extra=self.extra,
            outputs=self.outputs,
            rows=rows[..., here, :, :],
            inner=None if self.inner is None else self.inner[here],
        )
        self.steps.backward(piece, self.of_state)

    def _multiply(self, window: slice, rows: Tensor) -> None:
        """Turn the gates' gradients of a window into those of weights, biases and input."""
        sums, needs = self.sums, self.needs
        old = self._time_first(self.h[self.layer.steps.old(window)])
        left = sums.add_weights("hh", self.recurrent, rows, old, needs[4:7], None)
        sums.add_bias("bias_hh", rows, self.bias_hh, needs[8])
        if self.inner is not None:  # only here do the input's and the recurrent product part
            gate_major(rows, self.layer.num_gates)[-1].copy_(self.inner)
            left = self.inner = None
        if type(self.from_input) is not type(self.recurrent):  # each lays it out in its own way
            left = None
        start, num_steps = window.start, window.stop - window.start
        x = self.x.narrow(-3, start, num_steps)
        sums.add_bias("bias_ih", rows, self.bias_ih, needs[7])
        if self.for_x is not None:
            self.from_input.input_grad(rows, self.for_x.narrow(-3, start, num_steps))
        sums.add_weights("ih", self.from_input, rows, x, needs[1:4], left)


class _Sums:
    """Gradients of weights and biases, summed over windows."""

    def __init__(self) -> None:
        self._totals: dict[str, Tensor] = {}

    def of(self, name: str) -> Tensor | None:
        return self._totals.get(name)

    def _add(self, name: str, part: Tensor) -> None:
        total = self._totals.get(name)
        self._totals[name] = part if total is None else total.add_(part)

    def add_weights(
        self,
        name: str,
        product: ProductGrads,
        rows: Tensor,
        x: Tensor,
        needs: Sequence[bool],  # of loc, mask and noise
        left: Tensor | None,  # the left factor, if it is there
    ) -> Tensor | None:
        """Add a window's products, and return their left factor."""
        if not needs[0] and not needs[2]:
            return left
        if left is None:
            left = product.left_factor(rows)
        loc, noise = product.weight_grad(left, x, noise_too=needs[2])
        self._add(f"weight_{name}", loc)
        if noise is not None:
            self._add(f"noise_{name}", noise)
        return left

    def add_bias(self, name: str, rows: Tensor, bias: Tensor | None, needed: bool) -> None:
        if bias is None or not needed:
            return
        total = rows.flatten(-3, -2).sum(-2)
        self._add(name, total if total.dim() == bias.dim() else total.sum(0))
