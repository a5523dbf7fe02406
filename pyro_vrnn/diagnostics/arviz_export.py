"""Export of a variational posterior to ArviZ."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from pyro_vrnn.diagnostics._datasets import import_arviz, make_container
from pyro_vrnn.diagnostics._draws import Arguments
from pyro_vrnn.diagnostics._export import Request, run_export
from pyro_vrnn.diagnostics._programs import check_arguments, check_callable
from pyro_vrnn.infer import FitResult
from pyro_vrnn.runs import check_seed, lent_generators, set_seed
from pyro_vrnn.shapes import check_choice, check_positive_int

LOG_LIKELIHOODS = (True, False, "sequence", "step")


@torch.no_grad()
def from_pyro_svi(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    *,
    svi_result: FitResult | Sequence[float] | None = None,
    model_args: Sequence[Any] = (),
    model_kwargs: Mapping[str, Any] | None = None,
    num_samples: int = 1000,
    posterior: bool | Sequence[str] = True,
    summarize: Sequence[str] = (),
    posterior_predictive: bool = True,
    log_likelihood: bool | str = True,
    prior: bool | Mapping[str, Tensor] | None = None,
    predictions: Mapping[str, Tensor] | None = None,
    predictions_args: Sequence[Any] | None = None,
    predictions_kwargs: Mapping[str, Any] | None = None,
    constant_data: bool | Mapping[str, ArrayLike | Tensor] | None = None,
    predictions_constant_data: bool | Mapping[str, ArrayLike | Tensor] | None = None,
    coords: Mapping[str, ArrayLike] | None = None,
    dims: Mapping[str, Sequence[str | None]] | None = None,
    pred_dims: Mapping[str, Sequence[str | None]] | None = None,
    index_origin: int = 0,
    max_bytes: int = 2**30,
    seed: int | None = None,
    progress: bool = False,
) -> Any:
    r"""
    Draw from a guide and export the draws for ArviZ, with the densities that judge the guide.

    For each of S draws :math:`w_s \sim q` the model is run on its training arguments, once as it
    stands and once un-conditioned. The groups, chain 1 and draw S first:

    ============================= ==============================================================
    group                         variables
    ============================= ==============================================================
    ``posterior``                 latents; deterministic sites outside plates
    ``posterior_summary``         ``mean`` and ``sd`` (dim ``statistic``) of each element of a
                                  site whose draws are not kept
    ``sample_stats``              ``log_p__`` = ``lp`` :math:`= \log p(y, w_s)`; ``log_g__``
                                  :math:`= \log q(w_s)`; ``norm``, of each latent (dim ``site``)
    ``log_likelihood``            :math:`\log p(y_n \mid w_s)` of each observed site
    ``posterior_predictive``      observed sites drawn anew; deterministic sites inside plates
                                  (one value per datum, such as ``"loc"``)
    ``predictions``               the same at ``predictions_args``, from the same draws
    ``prior``,                    the draws in ``prior``, divided likewise
    ``prior_predictive``
    ``observed_data``             observed sites
    ``constant_data``,            inputs of the model, in training and for ``predictions``
    ``predictions_constant_data``
    ``svi``                       ``elbo`` by ``step``, nats; of a ``FitResult`` also its
                                  ``expected_log_likelihood``, ``kl`` (by ``step`` and ``site``),
                                  ``gradient_norm`` and ``learning_rate``, and by ``epoch`` the
                                  ``epoch_loss`` and held-out scores; of a weight guide
                                  ``kl_parts``, the KL it has now as constant, slab and mask part
    ============================= ==============================================================

    :math:`E_q[\log p - \log q]` is the ELBO, and the difference is the log evidence at every draw
    if q is the exact posterior. Auxiliary sites of the guide (the unconstrained values of Pyro's
    autoguides) are counted in ``log_g__`` with their Jacobians, and not exported. A guide without a
    density (``scale=0``, the dropout limit) has no ``log_g__``; it is left out, and the attribute
    ``bound`` says so.

    ``log_p__`` is what the program says: with minibatches, N / B times the batch's log-likelihood.
    ``log_likelihood`` is pointwise and never scaled (0 where a site is masked), so that PSIS-LOO
    has its meaning. Draws are independent: pass ``reff=1.0`` to ``arviz.loo``. Each draw is one
    weight for all sequences and time steps. Un-conditioning reruns the program, so a model that
    feeds ``y`` back in as input is predicted one step ahead.

    **Names of dims.** Weights with a :class:`~pyro_vrnn.distributions.WeightSite` get those of
    their kind, the gates in a dim of their own: ``weight_hh`` is ``(gate, unit, previous_unit)``
    with gates ``i f g o`` or ``r z n``, ``head.weight`` is ``(head_output, head_input)``. Values
    are in torch's order, so ``reshape`` gives torch's matrix. Our models call the dims of their
    data ``sequence``, ``time``, ``feature``, ``output``, ``horizon``, ``category``; a model of your
    own may, in an attribute ``dim_names``, site -> names. Else a plate names the dim of its sites
    (``"<plate>_dim"`` where ArviZ reserves the name), ``infer={"event_dims": names}`` the event
    dims, and what is left is ``"<site>_dim_0"``, ``"<site>_dim_1"``, ...

    **Size.** With ``posterior=True``, sites whose draws would take the export over ``max_bytes``
    are summarised, the largest first; a warning and the attribute ``summarized_sites`` name them.
    Draws are made and read one at a time, so memory is that of one draw and the export's.

    Example::

        >>> import pyro_vrnn as vrnn
        >>> model = vrnn.models.SequenceRegression(vrnn.nn.GRU(3, 4), out_features=1)
        >>> guide = vrnn.infer.AutoSpikeAndSlab(model)
        >>> x, y = torch.zeros(5, 20, 3), torch.zeros(5, 1)
        >>> data = vrnn.from_pyro_svi(model, guide, model_args=(x, y), num_samples=8)
        >>> dict(data["posterior_predictive"]["obs"].sizes)
        {'chain': 1, 'draw': 8, 'sequence': 5, 'output': 1}
        >>> dict(data["posterior"]["rnn.weight_hh_l0"].sel(gate="z").sizes)
        {'chain': 1, 'draw': 8, 'unit': 4, 'previous_unit': 4}

    :param model: a Pyro model.
    :param guide: its guide, trained.
    :param svi_result: what :func:`~pyro_vrnn.infer.fit` returned, or the losses (minus the ELBO)
        that ``SVI.step`` returned.
    :param model_args: the training arguments, observations included.
    :param model_kwargs: the training keyword arguments.
    :param int num_samples: S.
    :param posterior: whether to export ``posterior``, or the sites of it to export, by name or
        pattern (``"rnn.weight_hh_*"``); every latent is drawn and counted in the densities all the
        same. Sites that are asked for by name are never summarised instead.
    :param summarize: sites, by name or pattern, of which to keep only the summary.
    :param bool posterior_predictive: whether to run the un-conditioned model.
    :param log_likelihood: True or ``"sequence"`` for one number per datum, event dims summed;
        ``"step"`` to keep the event dims whose elements are independent given w, such as horizons;
        False for none.
    :param prior: True to draw ``num_samples`` times from the prior; or draws, site -> (draws,
        \*shape), as ``pyro.infer.Predictive(model, num_samples=...)`` gives.
    :param predictions: draws made for other data, site -> (draws, \*shape).
    :param predictions_args: arguments of other data to draw them at, observations not needed.
    :param predictions_kwargs: keyword arguments of other data.
    :param constant_data: name -> array, or True for the tensors among the training arguments that
        are no observations: not the ones that a site observes, nor, of a site that observes what
        the model made of one, that called ``y`` or as the site.
    :param predictions_constant_data: the same of ``predictions_args``, all of its tensors.
    :param coords: dim -> coordinate values. Those of a plate are for the training data, and not for
        ``predictions``.
    :param dims: site or constant data -> names of its dims, the leading ones at least; None keeps a
        name. A weight's own are those of torch's matrix, and so is then its shape.
    :param pred_dims: the same for ``predictions``, where they may take coordinates of their own.
    :param int index_origin: where integer coordinates start.
    :param int max_bytes: the most bytes that the arrays of draws may take together.
    :param int seed: of the draws; the generators are left as they were. None draws on from where
        they are.
    :param bool progress: show a progress bar.
    :returns: ``arviz.InferenceData`` under ArviZ 0.x, ``xarray.DataTree`` under 1.x. Attributes:
        libraries and versions, guide, model, seed, and of a weight guide ``drop_probs`` (or
        ``alphas``), ``scales``, ``scopes`` and ``block_shapes`` (JSON, by site).
    :raises ImportError: if ArviZ is not installed.
    :raises TypeError: if an argument is of the wrong type.
    :raises ValueError: if the guide's latents are not the model's, the data or sites change from
        draw to draw, a name or size does not fit, a latent inside a plate is to predict other data,
        or the arrays would exceed ``max_bytes``.

    **References**

    [1] Yao, Vehtari, Simpson, Gelman (2018), https://arxiv.org/abs/1802.02538
    """
    check_positive_int("num_samples", num_samples)
    check_positive_int("max_bytes", max_bytes)
    if seed is not None:
        check_seed(seed)
    check_choice("log_likelihood", log_likelihood, LOG_LIKELIHOODS)
    check_callable(model, guide)
    if predictions is not None and predictions_args is not None:
        raise ValueError(
            "Expected predictions (draws) or predictions_args (what to draw them at), got both."
        )
    elsewhere = None
    if predictions_args is not None or predictions_kwargs is not None:
        args = () if predictions_args is None else predictions_args
        elsewhere = _arguments("predictions", args, predictions_kwargs)
    request = Request(
        model=model,
        guide=guide,
        training=_arguments("model", model_args, model_kwargs),
        elsewhere=elsewhere,
        svi_result=svi_result,
        num_samples=num_samples,
        posterior=posterior,
        summarize=summarize,
        posterior_predictive=posterior_predictive,
        log_likelihood=log_likelihood,
        prior=prior,
        predictions=predictions,
        constant_data=constant_data,
        predictions_constant_data=predictions_constant_data,
        coords=coords or {},
        dims=dims or {},
        pred_dims=pred_dims or {},
        max_bytes=max_bytes,
        seed=seed,
        progress=progress,
    )
    arviz = import_arviz()
    with contextlib.nullcontext() if seed is None else lent_generators():
        if seed is not None:
            set_seed(seed)
        datasets, attrs = run_export(request, index_origin)
    return make_container(arviz, datasets, attrs)


def _arguments(name: str, args: Any, kwargs: Any) -> Arguments:
    return Arguments(args, check_arguments(name, args, kwargs))
