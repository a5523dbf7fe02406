r"""
Random matrices drawn along the vectors that they are multiplied with.

The products of a matrix E of independent standard normals with vectors :math:`h_1, h_2, \dots` need
no more of E than what it does on their span. With an orthonormal basis :math:`q_1, q_2, \dots` of
that span, :math:`E q_i = \epsilon_i` are independent vectors of standard normals, and

.. math::
    E h_t = \sum_{i < t} (q_i^\top h_t)\, \epsilon_i + \|r_t\|\, \epsilon_t, \qquad
    r_t = h_t - \sum_{i < t} (q_i^\top h_t)\, q_i, \qquad q_t = r_t / \|r_t\|.

This is exact in law, jointly for all products: their covariances are :math:`h_s^\top h_t`, those of
E's products. T products take T vectors of normals where E is made of as many as it has columns.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_vrnn.shapes import check_shape


class SpannedNoise:
    r"""
    N matrices :math:`E_n` (F, D), one for each sequence of a batch.

    Its normals are given, R vectors of F for each matrix, with the scale that its numbers are to
    have. A product with one vector for each sequence uses up the next of them. They are used as
    they come: the same normals and the same products in the same order give the same matrices,
    whichever other sequences are beside them. A vector in the span of earlier ones gets the product
    that it must have, and no direction.

    With R = D the matrices are all there, and R says nothing of the number of products. Otherwise
    gradients are refused.

    >>> noise = SpannedNoise(torch.randn(5, 3, 4), columns=8)
    >>> h = torch.randn(5, 8)
    >>> first, twice = noise.times(h), noise.times(2 * h)
    >>> torch.allclose(twice, 2 * first)
    True

    :param torch.Tensor normals: ``(N, R, F)``.
    :param int columns: D.
    :ivar int used: how many vectors each matrix was multiplied with.
    """

    def __init__(self, normals: Tensor, columns: int) -> None:
        check_shape("normals", normals, ("N", "R", "F"))
        self._normals = normals
        num_sequences, rank, rows = normals.shape
        self.shape = (num_sequences, rows, columns)
        self.dtype, self.requires_grad = normals.dtype, False
        self.is_whole = rank == columns
        self.used = 0
        size = 0 if self.is_whole else rank
        self._basis = normals.new_empty(num_sequences, size, columns)
        # A residual is rounding below this part of the vector.
        self._least = 10 * columns**0.5 * torch.finfo(normals.dtype).eps

    def add(self, h: Tensor, out: Tensor) -> None:  # (N, D), (N, F)
        r"""Add :math:`E_n h_n` to ``out``."""
        parts = self._coordinates(h)
        out.unsqueeze(1).baddbmm_(parts, self._normals[:, : parts.shape[-1]])

    def times(self, h: Tensor) -> Tensor:  # (N, D) -> (N, F)
        r"""Return :math:`E_n h_n`."""
        return self.times_each(h.unsqueeze(1)).squeeze(1)

    def times_each(self, x: Tensor) -> Tensor:  # (N, M, D) -> (N, M, F)
        """Return the products with M vectors for each matrix."""
        if self.is_whole:
            self.used += x.shape[1]
            return torch.bmm(x, self._normals)
        parts = x.new_zeros(*x.shape[:2], self.used + x.shape[1])
        for m, h in enumerate(x.unbind(1)):
            one = self._coordinates(h)
            parts[:, m, : one.shape[-1]] = one[:, 0]
        return torch.bmm(parts, self._normals[:, : self.used])

    def rows(self, ids: Tensor) -> Tensor:  # (N, *) -> (N, *, D)
        """
        Return rows, for matrices that are whole.

        :raises ValueError: if they are drawn along vectors.
        """
        self.used = max(self.used, self.shape[2])  # takes all directions
        self._check_whole()
        sequence = torch.arange(len(ids), device=ids.device).view(-1, *[1] * (ids.dim() - 1))
        return self._normals[sequence, :, ids]

    def index_select(self, index: Tensor) -> SpannedNoise:
        """
        Return itself, for an index that changes nothing.

        :raises NotImplementedError: for another, as the matrices are drawn where they stand.
        """
        if not torch.equal(index.cpu(), torch.arange(self.shape[0])):
            raise NotImplementedError(
                "Expected sequences of one length, or the longest first, where each has noise of "
                "its own, got them in another order."
            )
        return self

    def whole(self) -> Tensor:
        """
        Return the matrices (N, F, D).

        :raises ValueError: if they are drawn along vectors.
        """
        self._check_whole()
        return self.drawn()

    def drawn(self) -> Tensor:  # (N, F, D)
        """
        Write out what was drawn: matrices that give all products so far.

        They are 0 on vectors that are orthogonal to those seen, unless they are whole.
        """
        if self.is_whole:
            return self._normals.mT
        return torch.bmm(self._normals[:, : self.used].mT, self._basis[:, : self.used])

    def _check_whole(self) -> None:
        if not self.is_whole:
            raise ValueError(
                f"Expected noise that is drawn whole, got {self._normals.shape[1]} directions of "
                f"{self.shape[2]}."
            )

    def _coordinates(self, h: Tensor) -> Tensor:  # (N, D) -> (N, 1, number of directions)
        """Return h in the basis, which has its direction then."""
        h, k = h.unsqueeze(1), self.used
        self.used += 1
        if self.is_whole:
            return h
        if h.requires_grad and torch.is_grad_enabled():
            raise NotImplementedError(
                "Expected no gradient through noise that is drawn along vectors, got an input that "
                "requires grad: use torch.no_grad()."
            )
        if k == self._basis.shape[1]:
            raise ValueError(
                f"Expected at most {k} products with noise of {k} directions, got another."
            )
        basis, rest = self._basis[:, :k], h
        if k:
            parts = torch.bmm(h, basis.mT)
            rest = torch.baddbmm(h, parts, basis, alpha=-1)
            # What rounding has left of h along the basis may be large beside the rest.
            rest.baddbmm_(torch.bmm(rest, basis.mT), basis, alpha=-1)
        length = torch.linalg.vector_norm(rest, dim=-1, keepdim=True)
        is_new = length > self._least * torch.linalg.vector_norm(h, dim=-1, keepdim=True)
        torch.div(rest, torch.where(is_new, length, torch.inf), out=self._basis[:, k : k + 1])
        length.mul_(is_new)
        return torch.cat([parts, length], -1) if k else length
