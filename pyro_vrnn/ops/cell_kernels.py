r"""
The elementwise halves of the unrolled cells, forward and backward, written by hand.

A kernel sees the gates gate-major, ``(G, T, *state)`` with ``*state`` = ``(N, H)`` or ``(S, N, H)``,
whatever the layout of the buffer behind them (see :mod:`~pyro_vrnn.ops.products`), and overwrites
them with the activations. Going backward, what does not depend on the recurrence is computed for
all steps at once into the gradient's own buffer, so that a step only multiplies it by the incoming
gradient. States of all steps are kept in ``(T+1, *state)``.

The equations are those of :mod:`~pyro_vrnn.ops.cells`, against which all of this is tested.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

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
        times = range(self.num_steps)[window]
        for t in reversed(times) if self.reverse else times:
            n = self.num_sequences if self.active is None else self.active[t]
            yield Step(t, t + 1, t, n) if self.reverse else Step(t, t, t + 1, n)

    def backward(self) -> Iterator[Step]:
        """Yield all steps, last first."""
        return reversed(list(self.forward(slice(None))))

    @property
    def first(self) -> int:
        """Where the initial state stands among the T+1 states."""
        return self.num_steps if self.reverse else 0

    @property
    def last(self) -> int:
        """Where the last state stands."""
        return 0 if self.reverse else self.num_steps

    @property
    def old(self) -> slice:
        """Where the states before each step stand, in the order of time."""
        return slice(1, None) if self.reverse else slice(None, -1)

    @property
    def new(self) -> slice:
        """Where the states after each step stand."""
        return slice(None, -1) if self.reverse else slice(1, None)


class StepProduct(Protocol):
    """What a kernel needs of the recurrent product."""

    def step(self, h: Tensor, out: Tensor) -> None:
        """Add the product of one step."""

    def step_grad(self, grad: Tensor) -> Tensor:
        """Turn the gradient of one step into the input's."""


class Gates:
    """
    A buffer of G gates, ``(B, T, M, F)``, and the same memory gate-major, ``(G, T, *state)``.

    :param torch.Tensor buffer: in one of the layouts of :mod:`~pyro_vrnn.ops.products`.
    :param int num_gates: G.
    :param bool particles: whether the B matrices are particles, and not the gates.
    """

    def __init__(self, buffer: Tensor, num_gates: int, particles: bool) -> None:
        self.buffer, self.num_gates, self.particles = buffer, num_gates, particles
        if not particles and len(buffer) == num_gates:
            self.major = buffer
            return
        split = buffer.unflatten(-1, (num_gates, -1))  # (B, T, N, G, H)
        self.major = split.permute(3, 1, 0, 2, 4) if particles else split[0].permute(2, 0, 1, 3)

    def like(self, num_steps: int | None = None) -> Gates:
        """Return new memory of the same layout, for another number of steps if it is given."""
        matrices, steps, *rest = self.buffer.shape
        buffer = self.buffer.new_empty(matrices, num_steps or steps, *rest)
        return Gates(buffer, self.num_gates, self.particles)


def cut(x: Tensor, n: int) -> Tensor:
    """Return the first n sequences, which are along the last dim but one."""
    return x if x.shape[-2] == n else x[..., :n, :]


def _renewed(whole: Tensor, n: int, value: Tensor) -> Tensor:
    """Return ``whole`` with its first n sequences replaced."""
    if n == whole.shape[-2]:
        return value
    whole[..., :n, :] = value
    return whole


def carry(states: Sequence[Tensor], step: Step) -> None:
    """Keep the state of the sequences that have ended."""
    n = step.active
    if n < states[step.new].shape[-2]:
        states[step.new][..., n:, :] = states[step.old][..., n:, :]


def _one_minus_square(x: Tensor) -> Tensor:
    return torch.addcmul(x.new_ones(()), x, x, value=-1)


def _clear_ended(gates: Gates, steps: Steps) -> None:
    """Zero the gradient of steps past a sequence's end."""
    if steps.active is not None:
        for t, n in enumerate(steps.active):
            if n < steps.num_sequences:
                gates.buffer[:, t, n:] = 0


class LSTMKernel:
    """Gates i, f, g, o; states h, c."""

    keeps_gates = True

    @staticmethod
    def forward(
        window: Iterator[Step],
        start: int,  # the first time in the buffer
        gates: Gates,
        h: Sequence[Tensor],  # T+1 of (*state)
        extra: Sequence[Tensor],  # c, likewise
        product: StepProduct,
        bias_n: Tensor | None,
    ) -> None:
        """Run the steps of a window."""
        rows = gates.buffer.unbind(1)
        i_f, i, f = (gates.major[k].unbind(d) for k, d in ((slice(0, 2), 1), (0, 0), (1, 0)))
        g, o = gates.major[2].unbind(0), gates.major[3].unbind(0)
        tanh_c = torch.empty_like(h[0])
        for step in window:
            n, t = step.active, step.time - start
            product.step(cut(h[step.old], n), cut(rows[t], n))
            cut(i_f[t], n).sigmoid_()
            candidate = cut(g[t], n).tanh_()
            out_gate = cut(o[t], n).sigmoid_()
            c = cut(extra[step.new], n)
            torch.mul(cut(f[t], n), cut(extra[step.old], n), out=c)
            c.addcmul_(cut(i[t], n), candidate)
            squashed = torch.tanh(c, out=cut(tanh_c, n))
            torch.mul(out_gate, squashed, out=cut(h[step.new], n))
            carry(h, step)
            carry(extra, step)

    @staticmethod
    def backward(
        steps: Steps,
        gates: Gates,
        h: Tensor,  # (T+1, *state)
        extra: Tensor,  # c, likewise
        product: StepProduct,
        outputs: Tensor | None,  # gradient of the outputs, (T, *state)
        states: Sequence[Tensor],  # gradients of the last h, c; written over
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Return the gradients of the input's and the recurrent product, and of the first state."""
        i, f, g, o = gates.major
        grads = gates.like()
        for_i, for_f, for_g, for_o = grads.major
        torch.mul(i, g, out=for_i)
        torch.addcmul(i, for_i, g, value=-1, out=for_g)  # i (1 - g^2)
        for_i.addcmul_(for_i, i, value=-1)  # g i (1 - i)
        torch.mul(f, extra[steps.old], out=for_f)
        for_f.addcmul_(for_f, f, value=-1)  # c f (1 - f)
        new = h[steps.new]
        torch.addcmul(new, new, o, value=-1, out=for_o)  # tanh(c) o (1 - o), as h = o tanh(c)
        through = torch.tanh(extra[steps.new])
        torch.addcmul(o, new, through, value=-1, out=through)  # o (1 - tanh^2 c)
        _clear_ended(grads, steps)
        rows, i_f_g = grads.buffer.unbind(1), grads.major[:3].unbind(1)
        of_o, forget, by_c = for_o.unbind(0), f.unbind(0), through.unbind(0)
        incoming = None if outputs is None else outputs.unbind(0)
        dh, dc = states
        for t, _, _, n in steps.backward():
            to_h, to_c = cut(dh, n), cut(dc, n)
            if incoming is not None:
                to_h.add_(cut(incoming[t], n))
            to_c.addcmul_(to_h, cut(by_c[t], n))
            cut(i_f_g[t], n).mul_(to_c)
            cut(of_o[t], n).mul_(to_h)
            to_c.mul_(cut(forget[t], n))
            dh = _renewed(dh, n, product.step_grad(cut(rows[t], n)))
        return grads.buffer, grads.buffer, [dh, dc]


class GRUKernel:
    """Gates r, z, n; state h. ``extra`` keeps W_hn h + b_hn of each step."""

    keeps_gates = True

    @staticmethod
    def forward(
        window: Iterator[Step],
        start: int,
        gates: Gates,
        h: Sequence[Tensor],
        extra: Sequence[Tensor],  # T of (*state), or one to be used by all
        product: StepProduct,
        bias_n: Tensor | None,  # broadcasts to (*state)
    ) -> None:
        """Run the steps of a window; as :meth:`LSTMKernel.forward`."""
        r_z, r, z = (gates.major[k].unbind(d) for k, d in ((slice(0, 2), 1), (0, 0), (1, 0)))
        candidate = gates.major[2].unbind(0)
        one = gates.like(num_steps=1)
        recurrent, (of_r_z, of_n) = one.buffer[:, 0], (one.major[:2, 0], one.major[2, 0])
        for step in window:
            n, t = step.active, step.time - start
            recurrent.zero_()
            old = cut(h[step.old], n)
            product.step(old, cut(recurrent, n))
            cut(r_z[t], n).add_(cut(of_r_z, n)).sigmoid_()
            hidden = cut(extra[step.time if len(extra) > 1 else 0], n)
            if bias_n is None:
                hidden.copy_(cut(of_n, n))
            else:
                torch.add(cut(of_n, n), bias_n, out=hidden)
            new = cut(candidate[t], n).addcmul_(cut(r[t], n), hidden).tanh_()
            torch.lerp(new, old, cut(z[t], n), out=cut(h[step.new], n))
            carry(h, step)

    @staticmethod
    def backward(
        steps: Steps,
        gates: Gates,
        h: Tensor,
        extra: Tensor,  # (T, *state)
        product: StepProduct,
        outputs: Tensor | None,
        states: Sequence[Tensor],
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Run the steps backward; as :meth:`LSTMKernel.backward`."""
        r, z, candidate = gates.major
        recurrent = gates.like()
        for_r, for_z, for_n = recurrent.major
        inner = _one_minus_square(candidate)
        inner.addcmul_(inner, z, value=-1)  # (1 - z) (1 - n^2)
        torch.mul(inner, r, out=for_n)
        torch.mul(for_n, extra, out=for_r)
        for_r.addcmul_(for_r, r, value=-1)
        torch.sub(h[steps.old], candidate, out=for_z).mul_(z)
        for_z.addcmul_(for_z, z, value=-1)
        _clear_ended(recurrent, steps)
        rows, each = recurrent.buffer.unbind(1), recurrent.major.unbind(1)
        of_inner, kept = inner.unbind(0), z.unbind(0)
        incoming = None if outputs is None else outputs.unbind(0)
        (dh,) = states
        for t, _, _, n in steps.backward():
            to_h = cut(dh, n)
            if incoming is not None:
                to_h.add_(cut(incoming[t], n))
            cut(each[t], n).mul_(to_h)
            cut(of_inner[t], n).mul_(to_h)
            kept_part = cut(dh, n).mul_(cut(kept[t], n))
            kept_part.add_(product.step_grad(cut(rows[t], n)))
        inputs = recurrent.like()
        inputs.major[:2].copy_(recurrent.major[:2])
        inputs.major[2].copy_(inner)
        _clear_ended(inputs, steps)
        return inputs.buffer, recurrent.buffer, [dh]


class RNNKernel:
    """One gate; state h."""

    keeps_gates = False  # its state says all
    relu = False

    @classmethod
    def forward(
        cls,
        window: Iterator[Step],
        start: int,
        gates: Gates,
        h: Sequence[Tensor],
        extra: Sequence[Tensor],
        product: StepProduct,
        bias_n: Tensor | None,
    ) -> None:
        """Run the steps of a window; as :meth:`LSTMKernel.forward`."""
        rows, each = gates.buffer.unbind(1), gates.major[0].unbind(0)
        for step in window:
            n, t = step.active, step.time - start
            product.step(cut(h[step.old], n), cut(rows[t], n))
            new = cut(h[step.new], n)
            if cls.relu:
                torch.clamp_min(cut(each[t], n), 0, out=new)
            else:
                torch.tanh(cut(each[t], n), out=new)
            carry(h, step)

    @classmethod
    def backward(
        cls,
        steps: Steps,
        gates: Gates,
        h: Tensor,
        extra: Tensor,
        product: StepProduct,
        outputs: Tensor | None,
        states: Sequence[Tensor],
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Run the steps backward; as :meth:`LSTMKernel.backward`."""
        grads, new = gates.like(), h[steps.new]
        if cls.relu:
            torch.gt(new, 0, out=grads.major[0])
        else:
            grads.major[0].copy_(_one_minus_square(new))
        _clear_ended(grads, steps)
        rows, each = grads.buffer.unbind(1), grads.major[0].unbind(0)
        incoming = None if outputs is None else outputs.unbind(0)
        (dh,) = states
        for t, _, _, n in steps.backward():
            to_h = cut(dh, n)
            if incoming is not None:
                to_h.add_(cut(incoming[t], n))
            cut(each[t], n).mul_(to_h)
            dh = _renewed(dh, n, product.step_grad(cut(rows[t], n)))
        return grads.buffer, grads.buffer, [dh]


class ReluRNNKernel(RNNKernel):
    """The same with max(0, x) for tanh."""

    relu = True


KERNELS = {
    "RNN_TANH": RNNKernel,
    "RNN_RELU": ReluRNNKernel,
    "LSTM": LSTMKernel,
    "GRU": GRUKernel,
}
