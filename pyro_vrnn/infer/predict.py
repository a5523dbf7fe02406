"""The posterior predictive distribution, its draws summed up and not kept."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyro_vrnn.infer._predict_inputs import Inputs
from pyro_vrnn.infer._predict_job import Job
from pyro_vrnn.infer._predict_outcome import DRAWS
from pyro_vrnn.infer._predict_runs import RUNNERS
from pyro_vrnn.infer.evaluating import reading
from pyro_vrnn.infer.pairs import check_pair
from pyro_vrnn.models.language import LanguageModel
from pyro_vrnn.models.sequence import SequenceModel
from pyro_vrnn.reprs import short_repr
from pyro_vrnn.runs import check_device, check_seed
from pyro_vrnn.shapes import check_choice, check_positive_int, check_probability

STRATEGIES = ("auto", *RUNNERS)


@dataclass(frozen=True, eq=False)
class Prediction:
    r"""
    A posterior predictive: the equal mixture of :math:`p(y \mid x, w_s)` over S draws of w.

    ``(N, *out)`` is the observed site's shape for the N sequences, in their order. Fields that do
    not apply, or were not asked for, are None. Real observations have moments:

    :ivar Tensor mean: of the mixture, ``(N, *out)``.
    :ivar Tensor variance: of the mixture, the sum of the next two (law of total variance).
    :ivar Tensor epistemic_variance: variance over draws (divisor S) of the mean given w: what
        knowing w would remove.
    :ivar Tensor aleatoric_variance: mean over draws of the variance given w.

    Categorical observations of V classes have (entropies in nats):

    :ivar Tensor probs: probabilities, averaged over draws, ``(N, *out, V)``.
    :ivar Tensor entropy: of ``probs``, the sum of the next two.
    :ivar Tensor expected_entropy: mean over draws of the entropy given w (aleatoric).
    :ivar Tensor mutual_information: of y and w (epistemic).

    Where asked for:

    :ivar Tensor quantiles: of draws of y, ``(Q, N, *out)``, for ``quantile_levels``.
    :ivar Tensor draws: of y, one for each draw of w, ``(S, N, *out)``.
    :ivar Tensor mean_draws: mean of y given each draw of w, ``(S, N, *out)``; of a categorical y
        its probabilities, ``(S, N, *out, V)``.

    :ivar int num_samples: S.
    :ivar int seed: gives the same prediction again.
    :ivar str strategy: how the model was run.
    """

    num_samples: int
    seed: int
    strategy: str
    mean: Tensor | None = None
    variance: Tensor | None = None
    epistemic_variance: Tensor | None = None
    aleatoric_variance: Tensor | None = None
    probs: Tensor | None = None
    entropy: Tensor | None = None
    expected_entropy: Tensor | None = None
    mutual_information: Tensor | None = None
    quantile_levels: tuple[float, ...] = ()
    quantiles: Tensor | None = None
    draws: Tensor | None = None
    mean_draws: Tensor | None = None

    __repr__ = short_repr


@torch.no_grad()
def predict(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    x: Tensor,
    *,
    num_samples: int,
    lengths: Tensor | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    shared: Collection[str] = (),
    site: str | None = None,
    quantiles: Sequence[float] = (),
    return_draws: bool | str = False,
    strategy: str = "auto",
    parallel_guide: bool = True,
    max_bytes: int = 2**28,
    seed: int | None = None,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> Prediction:
    r"""
    Predict N sequences from S draws of a guide, in chunks, without keeping the draws.

    A draw is one function: one w for all sequences and time steps, whatever the guide's scope in
    training. The law is that of ``pyro.infer.Predictive(model, guide=guide, num_samples=S)`` with
    modules in ``.eval()`` mode, as they are meanwhile: plain dropout is off, the guide's is not.
    Means, variances and probabilities are those of the mixture of the S distributions
    :math:`p(y \mid x, w_s)`, computed from them and not from draws of y; only quantiles and
    ``draws`` need those.

    Memory: the result; 24 bytes for each number of it while it is summed (8 for probabilities);
    about ``max_bytes`` for a chunk, whatever S and N are; and at most ``max_bytes`` for draws that
    are kept. Quantiles are exact for the S draws of y: all of these are kept for as many sequences
    as fit in ``max_bytes``, and the next sequences see the same S weights, drawn again.

    Example::

        >>> import pyro_vrnn as vrnn
        >>> model = vrnn.models.SequenceRegression(vrnn.nn.GRU(3, 8), out_features=2)
        >>> guide = vrnn.infer.AutoSpikeAndSlab(model)
        >>> x, y = torch.randn(5, 20, 3), torch.randn(5, 2)
        >>> _ = guide(x, y)  # stands for the training
        >>> p = predict(model, guide, x, num_samples=50, quantiles=(0.05, 0.95), progress=False)
        >>> p.mean.shape, p.quantiles.shape
        (torch.Size([5, 2]), torch.Size([2, 5, 2]))
        >>> torch.allclose(p.variance, p.epistemic_variance + p.aleatoric_variance)
        True

    :param model: a Pyro model, called as ``model(x, **kwargs)``. Its observed site has one row a
        sequence, sequences first.
    :param guide: its guide. It must sample the model's latents outside the data plate. It is called
        with the arguments as they are given, not moved.
    :param x: ``(N, T, D)`` or ids ``(N, T)``; on any device, chunks are moved.
    :param int num_samples: S.
    :param lengths: valid steps ``(N,)``, passed on if given.
    :param model_kwargs: more keyword arguments. A tensor must have N rows and is cut as ``x`` is,
        unless it is named in ``shared``; anything else is passed on as it is.
    :param shared: names of tensors in ``model_kwargs`` that belong to all sequences.
    :param str site: the site to predict; a deterministic one, such as ``"loc"``, will do too.
        Default: ``"obs"``; in a model without, the only site that the guide leaves to it.
    :param quantiles: levels in [0, 1].
    :param return_draws: ``"observation"`` for :attr:`Prediction.draws`, ``"mean"`` for
        :attr:`Prediction.mean_draws`, True for both.
    :param str strategy: ``"loop"``: draw by draw, right for many
        sequences. ``"batched"``: several draws at once, right for few; the model must be one for
        ``Predictive(parallel=True)``, which is checked on two draws. ``"folded"``, for an
        :class:`~pyro_vrnn.infer.AutoSpikeAndSlab` with ``scale=0``: the masks of several draws act
        on one network, whose batch is all sequences under each draw; right for few. With noise of
        one scale for each site (``learn_scale=False``), and ``x`` of one sequence, it draws noise
        only along the vectors that it multiplies, with the same law; right for fewer steps than
        hidden units. ``"auto"`` chooses by size, and another where the check fails.
    :param bool parallel_guide: draw from the guide in a plate. False for a guide that cannot.
    :param int max_bytes: see above. It has no effect on the draws of w.
    :param int seed: of a stream of random numbers that belongs to this call; None takes one from
        torch's generator. The generators are left as they were. The same seed gives the same
        result on one device, bit for bit if ``max_bytes`` and ``strategy`` are the same too.
    :param device: where model and guide are put, and the result is; None leaves them.
    :param bool progress: show a progress bar over draws.
    :raises TypeError: if an argument is of the wrong type, or the site's distribution has neither
        moments nor classes.
    :raises ValueError: if an argument does not fit; if the model and the guide do not share their
        latents; if draws that were asked for exceed ``max_bytes``.
    :raises RuntimeError: if an autoguide was never called.
    """
    _check_programs(model, guide, device)
    levels = _check_levels(quantiles)
    kept = _check_return_draws(return_draws)
    for name, value in (("num_samples", num_samples), ("max_bytes", max_bytes)):
        check_positive_int(name, value)
    check_choice("strategy", strategy, STRATEGIES)
    if isinstance(model, (SequenceModel, LanguageModel)):
        model.check_input(x, lengths)  # as a whole: a chunk knows neither its shape nor its place
    inputs = Inputs(x, lengths, model_kwargs, shared, _device_of(guide, model, x))
    seed = int(torch.randint(2**31, ())) if seed is None else check_seed(seed)
    # As in Pyro's Predictive: guides read from the mask that no density is asked for.
    with reading(model, guide), poutine.mask(mask=False):
        job = Job(model, guide, inputs, site, seed, kept, levels, parallel_guide)
        fields = job.run(num_samples, strategy, max_bytes, progress)
    return Prediction(num_samples=num_samples, seed=seed, quantile_levels=levels, **fields)


def _check_programs(model: Any, guide: Any, device: torch.device | str | None) -> None:
    for name, program in (("model", model), ("guide", guide)):
        if not callable(program):
            raise TypeError(f"Expected {name} to be callable, got {type(program).__name__}.")
    check_pair(model, guide)
    if device is not None:
        place = check_device(str(device))
        for program in (model, guide):
            if isinstance(program, torch.nn.Module):
                program.to(place)


def _check_levels(quantiles: Any) -> tuple[float, ...]:
    if isinstance(quantiles, (str, float, int)):
        raise TypeError(f"Expected quantiles to be a sequence of levels, got {quantiles!r}.")
    return tuple(check_probability(f"quantiles[{k}]", q) for k, q in enumerate(quantiles))


def _check_return_draws(return_draws: Any) -> tuple[str, ...]:
    choices: dict[Any, tuple[str, ...]] = {
        False: (),
        True: DRAWS,
        **{name: (name,) for name in DRAWS},
    }
    return choices[check_choice("return_draws", return_draws, tuple(choices))]


def _device_of(guide: Any, model: Any, x: Any) -> torch.device:
    """Return where the guide's parameters are, else the model's, else ``x``."""
    for program in (guide, model):
        if isinstance(program, torch.nn.Module):
            for tensor in (*program.parameters(), *program.buffers()):
                return tensor.device
    return x.device if isinstance(x, Tensor) else torch.device("cpu")
