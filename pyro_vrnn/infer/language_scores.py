r"""
Perplexity of a text under draws of the weights, and what the draws do not agree on.

.. math::
    \mathrm{PPL} = \exp\Bigl(-\frac1n \sum_t \log \frac1S \sum_s p(y_t \mid y_{<t}, w_s)\Bigr).

Probabilities are averaged, never their logarithms; every token counts once.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from pyro_vrnn.baselines.function_draw import drops_function_wise, function_draw, mean_network
from pyro_vrnn.baselines.language import LanguageNetwork
from pyro_vrnn.infer._language_stream import Make, Sums, run_draws
from pyro_vrnn.infer.evaluating import reading
from pyro_vrnn.infer.pairs import check_pair
from pyro_vrnn.infer.weight_guide import AutoWeightGuide
from pyro_vrnn.models.language import LanguageModel
from pyro_vrnn.nn.plain import plain_torch
from pyro_vrnn.ops.log_mean import log_mean_deficit
from pyro_vrnn.reprs import short_repr
from pyro_vrnn.runs import check_device, check_seed, lent_generators
from pyro_vrnn.shapes import check_choice, check_positive_int

DRAWS = ("held", "window", "mean")


@dataclass(frozen=True)
class LanguageScores:
    r"""
    Scores of a text. Entropies and likelihoods are in nats.

    :ivar float nats_per_token: minus the mean log predictive of a token.
    :ivar float standard_error: of ``nats_per_token`` as a mean over tokens, taken as independent.
        It is about the text, not about S.
    :ivar float finite_sample_bias: estimate of how far ``nats_per_token`` is above its limit for
        many draws, the mean over tokens of Var_s p / (2 S p^2); None with one draw.
    :ivar int num_tokens: n.
    :ivar int num_samples: S; 1 with ``draws="mean"``.
    :ivar str draws: ``"held"``: S draws, each kept over the text; ``"window"``: each redrawn for
        every window; ``"mean"``: the weights' means, the "standard dropout approximation".
    :ivar bool embedding_dropout: False if embeddings were at their means, another q.
    :ivar int seed: of the draws.
    :ivar Tensor draw_nats_per_token: of each draw alone, ``(S,)``, float64.
    :ivar Tensor nats_by_num_samples: ``nats_per_token`` of the first 1, 2, ..., S draws, ``(S,)``.
    :ivar Tensor targets: the tokens that were predicted, ``(n,)``: window after window, in each
        sequence after sequence. This is the order of all that follows.
    :ivar Tensor log_predictive: log of the mean probability, ``(n,)``, float32.
    :ivar Tensor entropy: H of the mean of the S distributions, ``(n,)``, float32; None if not asked
        for, as the next two.
    :ivar Tensor aleatoric: mean of the S entropies: what is open whatever the weights.
    :ivar Tensor epistemic: entropy - aleatoric, the mutual information of token and draw: what the
        draws do not agree on.
    """

    nats_per_token: float
    standard_error: float
    finite_sample_bias: float | None
    num_tokens: int
    num_samples: int
    draws: str
    embedding_dropout: bool
    seed: int
    draw_nats_per_token: Tensor
    nats_by_num_samples: Tensor
    targets: Tensor
    log_predictive: Tensor
    entropy: Tensor | None = None
    aleatoric: Tensor | None = None
    epistemic: Tensor | None = None

    __repr__ = short_repr

    @property
    def perplexity(self) -> float:
        """The exponential of ``nats_per_token``."""
        return _exp(self.nats_per_token)

    @property
    def draw_perplexities(self) -> Tensor:
        """Perplexity under each draw alone, ``(S,)``."""
        return self.draw_nats_per_token.exp()

    @property
    def geometric_mean_perplexity(self) -> float:
        """Geometric mean of ``draw_perplexities``, never below ``perplexity``."""
        return _exp(float(self.draw_nats_per_token.mean()))


def score_language(
    model: torch.nn.Module,
    guide: AutoWeightGuide,
    windows: Iterable[Any],
    *,
    num_samples: int | None = None,
    draws: str = "held",
    embedding_dropout: bool = True,
    entropies: bool = False,
    seed: int = 0,
    max_bytes: int = 2**28,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> LanguageScores:
    """
    Score a text under draws of a guide.

    A draw is one function: one w for all parallel sequences, and with ``draws="held"`` for all
    windows; each draw carries its own state from window to window, zeros at first. Two calls with
    one seed have the same draws and the same result, bit for bit on one device; generators and
    ``model.state`` are left as they were. With ``embedding_dropout=False``, as in the code of the
    paper's authors, embeddings are at their means, with the other weights as they would be:
    that is another q, for which no bound holds.

    Memory: the weights of one draw, twice; the logits of one window; some 64 bytes for each token,
    its ids included. With ``entropies`` the text is taken in segments whose mean probabilities,
    n * V numbers, fit in ``max_bytes``; each draw comes back for each segment, made again from its
    seed, and the states of all S draws are kept.

    Example::

        >>> import pyro_vrnn as vrnn
        >>> model = vrnn.models.LanguageModel(20, 8, 8)
        >>> guide = vrnn.infer.AutoSpikeAndSlab(model)
        >>> x = torch.arange(60).reshape(3, 20) % 20
        >>> _ = guide(x, x)  # stands for the training
        >>> windows = [(x[:, :10], x[:, 1:11]), (x[:, 10:19], x[:, 11:])]
        >>> scores = score_language(model, guide, windows, num_samples=4, progress=False)
        >>> scores.num_tokens, scores.num_samples
        (57, 4)
        >>> scores.perplexity <= scores.geometric_mean_perplexity
        True

    :param model: a :class:`~pyro_vrnn.models.LanguageModel`.
    :param guide: its guide.
    :param windows: of parallel streams, in order: ``(x, y)`` or ``(x, y, lengths)``.
    :param int num_samples: S; not to be given with ``draws="mean"``.
    :param str draws: ``"held"``, ``"window"`` or ``"mean"``; see :class:`LanguageScores`.
    :param bool entropies: whether entropies are computed.
    :param int max_bytes: see above. It does not change the result.
    :param device: where the drawn networks run; default: where the guide is.
    :param bool progress: show a bar over the tokens of all draws.
    :raises TypeError: if model, guide or a window is none.
    :raises ValueError: if an argument does not fit, there is no window, or
        ``embedding_dropout=False`` is asked of tied weights.
    :raises RuntimeError: if the guide was not called yet.
    """
    check_pair(model, guide)
    if not isinstance(guide, AutoWeightGuide):
        raise TypeError(
            f"Expected guide to be one of pyro_vrnn.infer's, got {type(guide).__name__}."
        )
    guide._check_built("a guide without sites")
    kinds = [site.kind for site in guide.sites.values()]
    if not embedding_dropout and "embedding" not in kinds:
        raise ValueError(
            "Expected embedding_dropout=True of a model that has no site of kind 'embedding' "
            "(tied weights are of kind 'linear'), got False."
        )

    def make() -> LanguageNetwork:
        q = {name: guide.distribution(name) for name in guide.sites}
        values = {n: q[n].mean if draws == "mean" else q[n].sample() for n in q}
        if not embedding_dropout:  # after all were drawn, so that the others are the same
            values |= {n: q[n].mean for n in q if guide.sites[n].kind == "embedding"}
        return _checked(plain_torch(model, values))

    place = next(iter(guide.parameters())).device
    with reading(model, guide):
        return _score(
            make, windows, num_samples, draws, seed, entropies, max_bytes, progress,
            embedding_dropout=embedding_dropout, device=_device(device, place),
        )  # fmt: skip


def score_language_network(
    network: LanguageNetwork,
    windows: Iterable[Any],
    *,
    num_samples: int | None = None,
    draws: str = "held",
    embedding_dropout: bool = True,
    entropies: bool = False,
    seed: int = 0,
    max_bytes: int = 2**28,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> LanguageScores:
    """
    Score a text under draws of a dropout network, or with ``draws="mean"`` of any network.

    As :func:`score_language`, for layers that drop by ``"variational"`` or ``"gaussian"``: a draw
    is :func:`~pyro_vrnn.baselines.function_draw`. A network that drops nothing, or by another
    method, has only its means: ``draws="mean"``, one pass, what it gives in ``.eval()`` mode.

    Example::

        >>> from pyro_vrnn.baselines import LSTM, Embedding, LanguageNetwork, Linear
        >>> network = LanguageNetwork(Embedding(20, 8), LSTM(8, 8), Linear(8, 20))
        >>> x = torch.arange(60).reshape(3, 20) % 20
        >>> windows = [(x[:, :-1], x[:, 1:])]
        >>> score_language_network(network, windows, draws="mean", progress=False).num_samples
        1

    :param network: a :class:`~pyro_vrnn.baselines.LanguageNetwork`.
    :param windows: as for :func:`score_language`, and so are the other arguments.
    :raises TypeError: if network or a window is none.
    :raises ValueError: if an argument does not fit, there is no window, or draws are asked of a
        network that has none.
    """
    if isinstance(network, LanguageModel):
        raise TypeError("Expected a LanguageNetwork, got a LanguageModel: use score_language.")
    _checked(network)
    if draws != "mean" and not drops_function_wise(network):
        raise ValueError(
            "Expected draws='mean' for a network without layers that drop by 'variational' or "
            f"'gaussian', got {draws!r}."
        )

    def make() -> LanguageNetwork:
        if draws == "mean":
            return mean_network(network)
        return function_draw(network, embedding_dropout=embedding_dropout)

    return _score(
        make, windows, num_samples, draws, seed, entropies, max_bytes, progress,
        embedding_dropout=embedding_dropout,
        device=_device(device, network.head.weight.device),
    )  # fmt: skip


@torch.no_grad()
def _score(
    make: Make,
    windows: Iterable[Any],
    num_samples: int | None,
    draws: str,
    seed: int,
    entropies: bool,
    max_bytes: int,
    progress: bool,
    *,
    embedding_dropout: bool,
    device: torch.device,
) -> LanguageScores:
    check_choice("draws", draws, DRAWS)
    check_seed(seed)
    check_positive_int("max_bytes", max_bytes)
    if draws == "mean":
        if num_samples not in (None, 1):
            raise ValueError(f"Expected no num_samples with draws='mean', got {num_samples!r}.")
        num_samples = 1
    elif num_samples is None:
        raise ValueError(f"Expected num_samples=, the number of draws, with draws={draws!r}.")
    num_samples = check_positive_int("num_samples", num_samples)
    with lent_generators(), _bar(progress) as update:
        sums = run_draws(
            make,
            windows,
            num_samples=num_samples,
            redraw=draws == "window",
            seed=seed,
            entropies=entropies,
            max_bytes=max_bytes,
            device=device,
            update=update,
        )
    return _scores(sums, num_samples, draws=draws, embedding_dropout=embedding_dropout, seed=seed)


def _scores(sums: Sums, num_samples: int, **said: Any) -> LanguageScores:
    log_predictive = torch.cat(sums.log_predictive)
    count = len(log_predictive)
    by_draw, by_number = sums.draws.cpu() / count, sums.first.cpu() / count
    bias = None
    if num_samples > 1:
        log_square = torch.cat(sums.log_square)
        bias = float(log_mean_deficit(log_predictive, log_square, num_samples).mean())
    entropy = aleatoric = epistemic = None
    if sums.entropy:
        entropy, aleatoric = torch.cat(sums.entropy), torch.cat(sums.expected_entropy)
        epistemic = (entropy - aleatoric).clamp(min=0.0).float()
        entropy, aleatoric = entropy.float(), aleatoric.float()
    return LanguageScores(
        # Where all draws agree, rounding alone could put the first above the mean of the others.
        nats_per_token=min(float(by_number[-1]), float(by_draw.mean())),
        standard_error=float(log_predictive.std()) / math.sqrt(count) if count > 1 else math.nan,
        finite_sample_bias=bias,
        num_tokens=count,
        num_samples=num_samples,
        draw_nats_per_token=by_draw,
        nats_by_num_samples=by_number,
        targets=torch.cat(sums.targets),
        log_predictive=log_predictive.float(),
        entropy=entropy,
        aleatoric=aleatoric,
        epistemic=epistemic,
        **said,
    )


def _checked(network: Any) -> LanguageNetwork:
    if not isinstance(network, LanguageNetwork):
        raise TypeError(
            f"Expected a LanguageModel or LanguageNetwork, got {type(network).__name__}."
        )
    return network


def _device(device: torch.device | str | None, default: torch.device) -> torch.device:
    return default if device is None else check_device(str(device))


@contextlib.contextmanager
def _bar(progress: bool) -> Iterator[Callable[[int], Any]]:
    with tqdm(desc="score", unit="token", unit_scale=True, disable=not progress) as bar:
        yield bar.update


def _exp(nats: float) -> float:
    try:
        return math.exp(nats)
    except OverflowError:
        return math.inf
