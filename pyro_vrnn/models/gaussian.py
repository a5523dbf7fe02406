"""What the models with a Gaussian likelihood share: the precision and the sites."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro.infer.util import is_validation_enabled
from pyro.nn import PyroParam
from torch import Tensor
from torch.distributions import constraints

from pyro_vrnn.models.sequence import SequenceModel
from pyro_vrnn.nn.embedding import Embedding
from pyro_vrnn.nn.recurrent import RecurrentModule
from pyro_vrnn.nn.weights import Prior
from pyro_vrnn.shapes import check_finite, check_shape, shape_text


class GaussianSequenceModel(SequenceModel):
    r"""
    A sequence model whose output is observed through Gaussian noise of precision :math:`\tau`.

    :param tau: precision, a positive number or one for each of the outputs.
    :param bool learn_tau: make ``tau`` a :class:`~pyro.nn.PyroParam`, learned by maximising the
        ELBO, rather than a fixed buffer.
    :param prior_scale: prior of the head, as in :class:`~pyro_vrnn.nn.Linear`.
    """

    def __init__(
        self,
        rnn: RecurrentModule,
        out_features: int,
        *,
        tau: float | Tensor,
        learn_tau: bool,
        num_data: int | None,
        prior_scale: Prior,
        embedding: Embedding | None = None,
    ) -> None:
        super().__init__(
            rnn, out_features, num_data=num_data, prior_scale=prior_scale, embedding=embedding
        )
        self.out_features = self.head.out_features
        if not isinstance(tau, (int, float, Tensor)) or isinstance(tau, bool):
            raise TypeError(f"Expected tau to be a number or a Tensor, got {tau!r}.")
        value = torch.as_tensor(tau, **rnn.factory_kwargs).detach()
        if value.shape not in ((), (out_features,)):
            raise ValueError(
                f"Expected tau of shape () or ({out_features},), got {shape_text(value.shape)}."
            )
        if not bool((torch.isfinite(value) & (value > 0)).all()):
            raise ValueError(f"Expected tau to be positive and finite, got {tau}.")
        if learn_tau:
            self.tau = PyroParam(value.clone(), constraint=constraints.positive)
        else:
            self.register_buffer("tau", value.clone())

    def observe(
        self,
        loc: Tensor,  # (*P, N, out_features)
        noise: Tensor,  # (out_features,) or ()
        y: Tensor | None,
        weight: float = 1.0,
    ) -> None:
        """Make the sites ``loc`` (deterministic) and ``obs`` in the data plate."""
        batch_size = loc.shape[-2]
        if y is not None:
            check_shape("y", y, (batch_size, self.out_features))
            if is_validation_enabled():
                check_finite("y", y)
        with self.data_plate(batch_size, loc.device, y is not None):
            pyro.deterministic("loc", loc, event_dim=1)
            with pyro.poutine.scale(scale=weight):
                pyro.sample("obs", dist.Normal(loc, noise).to_event(1), obs=y)
