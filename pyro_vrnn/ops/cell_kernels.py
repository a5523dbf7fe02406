r"""
The elementwise halves of the unrolled cells, forward and backward, written by hand.

``*state`` stands for ``(N, H)`` or ``(S, N, H)``, and products keep gates in rows,
``(*, t, N, G*H)`` with ``*`` nothing or S. A kernel sees some steps at a time: forward it turns
their pre-activations into gates and states. Backward, what does not depend on the recurrence is
computed for all of these steps at once, into the rows of the gradient, so that a step only
multiplies it by the incoming gradient.

The equations are those of :mod:`~pyro_vrnn.ops.cells`, against which all of this is tested.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor


class Step(NamedTuple):
    """One step: its time, where its old and new states stand, and how many sequences are active."""

    time: int
    old: int
    new: int
    active: int


@dataclass(frozen=True)
class Steps:
    """
    The order of the steps of one layer in one direction.

    :param int num_steps: T.
    :param int num_sequences: N.
    :param bool reverse: from the last step to the first.
    :param active: sequences still running at each step, where lengths differ; the sequences are
        then sorted, longest first, so that these are the first ones.
    """

    num_steps: int
    num_sequences: int
    reverse: bool = False
    active: Sequence[int] | None = None

    def forward(self, window: slice) -> Iterator[Step]:
        """Yield the steps of a window in the order of the recurrence."""
        times = range(window.start, window.stop)
        for t in reversed(times) if self.reverse else times:
            n = self.num_sequences if self.active is None else self.active[t]
            yield Step(t, t + 1, t, n) if self.reverse else Step(t, t, t + 1, n)

    def backward(self, window: slice) -> Iterator[Step]:
        """Yield the steps of a window, last first."""
        return reversed(list(self.forward(window)))

    def windows(self, size: int, within: slice | None = None) -> list[slice]:
        """Cut the steps (of a window) in pieces of about one size, in the recurrence's order."""
        start, stop = (0, self.num_steps) if within is None else (within.start, within.stop)
        count = -(-(stop - start) // max(size, 1))
        cuts = [start + (stop - start) * k // count for k in range(count + 1)]
        pieces = [slice(*ends) for ends in pairwise(cuts)]
        return pieces[::-1] if self.reverse else pieces

    @property
    def cut(self) -> Callable[[Tensor, int], Tensor]:
        """What takes the first n sequences of a tensor."""
        return _all if self.active is None else _first

    @property
    def first(self) -> int:
        """Where the initial state stands among the T+1 states."""
        return self.num_steps if self.reverse else 0

    @property
    def last(self) -> int:
        """Where the last state stands."""
        return 0 if self.reverse else self.num_steps

    def old(self, window: slice) -> slice:
        """Where the states before each step of a window stand, in the order of time."""
        return slice(window.start + 1, window.stop + 1) if self.reverse else window

    def new(self, window: slice) -> slice:
        """Where the states after each step stand."""
        return window if self.reverse else slice(window.start + 1, window.stop + 1)


class StepProduct(Protocol):
    """What a kernel needs of the recurrent product."""

    def add(self, h: Tensor, out: Tensor, n: int) -> None:  # (*state), (*, N, G*H)
        """Add the product of one step with the first n sequences; the other rows are not used."""

    def times(self, h: Tensor, n: int) -> Tensor:
        """Return that product, for n sequences or more."""

    def times_weight(self, grad: Tensor, out: Tensor) -> Tensor:  # (*, N, G*H), (*, n, H)
        """Write the gradient of h, for the first n sequences, from that of the product."""

    def release(self) -> None:
        """Give back what the products of single steps hold."""


class Piece(NamedTuple):
    """What the backward pass of some steps reads and writes."""

    steps: Steps
    window: slice
    gates: Tensor | None  # of all steps, (G, T, *state)
    h: Tensor  # (T+1, *state)
    extra: Tensor | None  # what else the cell keeps: c, (T+1, *state), or (T, *state)
    outputs: Tensor | None  # gradient of the outputs, (T, *state)
    rows: Tensor  # gradient of the recurrent product, (*, t, N, G*H); written over
    inner: Tensor | None  # gradient of a GRU's candidate before tanh, (t, *state); written over

    def walk(self, to_h: Tensor) -> Iterator[tuple[int, int]]:
        """Yield the place in the window and the size of each step, the outputs' gradient added."""
        cut = self.steps.cut
        for t, _, _, n in self.steps.backward(self.window):
            if self.outputs is not None:
                cut(to_h, n).add_(cut(self.outputs[t], n))
            yield t - self.window.start, n

    def clear_ended(self) -> None:
        """Zero the gradient of steps past a sequence's end."""
        for t, _, _, n in self.steps.forward(self.window):
            if n < self.steps.num_sequences:
                self.rows[..., t - self.window.start, n:, :] = 0
                if self.inner is not None:
                    self.inner[t - self.window.start, ..., n:, :] = 0


def gate_major(rows: Tensor, num_gates: int) -> Tensor:  # (*, t, N, G*H) -> (G, t, *state)
    """View rows of gates gate by gate."""
    split = rows.unflatten(-1, (num_gates, -1)).movedim(-2, 0)
    return split.transpose(1, 2) if split.dim() == 5 else split


def _first(x: Tensor, n: int) -> Tensor:
    """Return the first n sequences, which are along the last dim but one."""
    return x[..., :n, :]


def _all(x: Tensor, n: int) -> Tensor:
    """Return all of them, at less cost."""
    return x


def _each(x: Tensor, window: slice) -> Sequence[Tensor]:  # (T, *) or (1, *)
    """Return one tensor for each step of a window, the same one if nothing is to be kept."""
    if len(x) == 1:
        return x.unbind(0) * (window.stop - window.start)
    return x[window].unbind(0)


def _carry(states: Sequence[Tensor], step: Step, steps: Steps) -> None:
    """Keep the state of the sequences that have ended."""
    n = step.active
    if n < steps.num_sequences:
        states[step.new][..., n:, :] = states[step.old][..., n:, :]


def _one_minus_square(x: Tensor) -> Tensor:
    return torch.addcmul(x.new_ones(()), x, x, value=-1)


class LSTMKernel:
    """Gates i, f, g, o; states h, c."""

    keeps_gates = True

    @staticmethod
    def forward(
        steps: Steps,
        window: slice,
        rows: Tensor,  # (*, t, N, G*H)
        gates: Tensor,  # (G, T, *state), or (G, 1, *state) if they are not to be kept
        h: Sequence[Tensor],  # T+1 of (*state)
        extra: Sequence[Tensor],  # c, likewise
        product: StepProduct,
        bias_n: Tensor | None,
    ) -> None:
        """Run the steps of a window."""
        major, each, start = gate_major(rows, 4), rows.unbind(-3), window.start
        from_i_f, (from_g, from_o) = major[:2].unbind(1), (major[k].unbind(0) for k in (2, 3))
        i_f = _each(gates[:2].transpose(0, 1), window)
        i, f, g, o = (_each(gate, window) for gate in gates)
        squashed = torch.empty_like(h[0])
        cut = steps.cut
        for step in steps.forward(window):
            n, k = step.active, step.time - start
            product.add(h[step.old], each[k], n)
            torch.sigmoid(cut(from_i_f[k], n), out=cut(i_f[k], n))
            candidate = cut(g[k], n).copy_(cut(from_g[k], n)).tanh_()  # two threads need no gaps
            out_gate = torch.sigmoid(cut(from_o[k], n), out=cut(o[k], n))
            c = torch.mul(cut(f[k], n), cut(extra[step.old], n), out=cut(extra[step.new], n))
            c.addcmul_(cut(i[k], n), candidate)
            torch.mul(out_gate, torch.tanh(c, out=cut(squashed, n)), out=cut(h[step.new], n))
            _carry(h, step, steps)
            _carry(extra, step, steps)

    @staticmethod
    def backward(
        piece: Piece,
        product: StepProduct,
        states: list[Tensor],  # gradients of the last h, c; written over by those of the first
    ) -> None:
        """Run the steps of a piece backward."""
        assert piece.gates is not None
        assert piece.extra is not None
        steps, window = piece.steps, piece.window
        i, f, g, o = piece.gates[:, window]
        major = gate_major(piece.rows, 4)
        for_i, for_f, for_g, for_o = major
        torch.mul(i, g, out=for_i)
        torch.addcmul(i, for_i, g, value=-1, out=for_g)  # i (1 - g^2)
        for_i.addcmul_(for_i, i, value=-1)  # g i (1 - i)
        torch.mul(f, piece.extra[steps.old(window)], out=for_f)
        for_f.addcmul_(for_f, f, value=-1)  # c f (1 - f)
        new = piece.h[steps.new(window)]
        torch.addcmul(new, new, o, value=-1, out=for_o)  # tanh(c) o (1 - o), as h = o tanh(c)
        through = torch.tanh(piece.extra[steps.new(window)])
        torch.addcmul(o, new, through, value=-1, out=through)  # o (1 - tanh^2 c)
        piece.clear_ended()
        each, i_f_g = piece.rows.unbind(-3), major[:3].unbind(1)
        of_o, forget, by_c = for_o.unbind(0), f.unbind(0), through.unbind(0)
        dh, dc = states
        cut = steps.cut
        for k, n in piece.walk(dh):
            to_h, to_c = cut(dh, n), cut(dc, n)
            to_c.addcmul_(to_h, cut(by_c[k], n))
            cut(i_f_g[k], n).mul_(to_c)
            cut(of_o[k], n).mul_(to_h)
            to_c.mul_(cut(forget[k], n))
            product.times_weight(each[k], to_h)


class GRUKernel:
    """Gates r, z, n; state h. ``extra`` keeps W_hn h + b_hn of each step."""

    keeps_gates = True

    @staticmethod
    def forward(
        steps: Steps,
        window: slice,
        rows: Tensor,
        gates: Tensor,
        h: Sequence[Tensor],
        extra: Sequence[Tensor],  # one a step
        product: StepProduct,
        bias_n: Tensor | None,  # broadcasts to (*state)
    ) -> None:
        """Run the steps of a window; as :meth:`LSTMKernel.forward`."""
        major, start = gate_major(rows, 3), window.start
        from_r_z, from_n = major[:2].unbind(1), major[2].unbind(0)
        r_z = _each(gates[:2].transpose(0, 1), window)
        r, z, candidate = (_each(gate, window) for gate in gates)
        cut = steps.cut
        for step in steps.forward(window):
            n, t, k = step.active, step.time, step.time - start
            old = cut(h[step.old], n)
            of_h = gate_major(cut(product.times(h[step.old], n), n).unsqueeze(-3), 3)[:, 0]
            torch.add(cut(from_r_z[k], n), of_h[:2], out=cut(r_z[k], n)).sigmoid_()
            hidden = cut(extra[t], n)
            if bias_n is None:
                hidden.copy_(of_h[2])
            else:
                torch.add(of_h[2], cut(bias_n, n), out=hidden)
            new = torch.addcmul(cut(from_n[k], n), cut(r[k], n), hidden, out=cut(candidate[k], n))
            torch.lerp(new.tanh_(), old, cut(z[k], n), out=cut(h[step.new], n))
            _carry(h, step, steps)

    @staticmethod
    def backward(piece: Piece, product: StepProduct, states: list[Tensor]) -> None:
        """Run the steps backward; as :meth:`LSTMKernel.backward`."""
        assert piece.gates is not None
        assert piece.extra is not None
        assert piece.inner is not None
        steps, window, inner = piece.steps, piece.window, piece.inner
        r, z, candidate = piece.gates[:, window]
        major = gate_major(piece.rows, 3)
        for_r, for_z, for_n = major
        inner.copy_(_one_minus_square(candidate))
        inner.addcmul_(inner, z, value=-1)  # (1 - z) (1 - n^2)
        torch.mul(inner, r, out=for_n)
        torch.mul(for_n, piece.extra[window], out=for_r)
        for_r.addcmul_(for_r, r, value=-1)
        torch.sub(piece.h[steps.old(window)], candidate, out=for_z).mul_(z)
        for_z.addcmul_(for_z, z, value=-1)
        piece.clear_ended()
        each, gates = piece.rows.unbind(-3), major.unbind(1)
        of_inner, kept = inner.unbind(0), z.unbind(0)
        (dh,) = states
        by_product = torch.empty_like(dh)
        cut = steps.cut
        for k, n in piece.walk(dh):
            to_h = cut(dh, n)
            cut(gates[k], n).mul_(to_h)
            cut(of_inner[k], n).mul_(to_h)
            to_h.mul_(cut(kept[k], n)).add_(product.times_weight(each[k], cut(by_product, n)))


class RNNKernel:
    """One gate; state h."""

    keeps_gates = False  # its state says all
    relu = False

    @classmethod
    def forward(
        cls,
        steps: Steps,
        window: slice,
        rows: Tensor,
        gates: Tensor | None,
        h: Sequence[Tensor],
        extra: Sequence[Tensor],
        product: StepProduct,
        bias_n: Tensor | None,
    ) -> None:
        """Run the steps of a window; as :meth:`LSTMKernel.forward`."""
        each = rows.unbind(-3)
        cut = steps.cut
        for step in steps.forward(window):
            n, row = step.active, each[step.time - window.start]
            product.add(h[step.old], row, n)
            new = cut(h[step.new], n)
            if cls.relu:
                torch.clamp_min(cut(row, n), 0, out=new)
            else:
                torch.tanh(cut(row, n), out=new)
            _carry(h, step, steps)

    @classmethod
    def backward(cls, piece: Piece, product: StepProduct, states: list[Tensor]) -> None:
        """Run the steps backward; as :meth:`LSTMKernel.backward`."""
        steps = piece.steps
        (major,) = gate_major(piece.rows, 1)
        new = piece.h[steps.new(piece.window)]
        major.copy_(new > 0 if cls.relu else _one_minus_square(new))
        piece.clear_ended()
        each = piece.rows.unbind(-3)
        (dh,) = states
        cut = steps.cut
        for k, n in piece.walk(dh):
            to_h = cut(dh, n)
            cut(each[k], n).mul_(to_h)
            product.times_weight(each[k], to_h)


class ReluRNNKernel(RNNKernel):
    """The same with max(0, x) for tanh."""

    relu = True


KERNELS: dict[str, Any] = {
    "RNN_TANH": RNNKernel,
    "RNN_RELU": ReluRNNKernel,
    "LSTM": LSTMKernel,
    "GRU": GRUKernel,
}
