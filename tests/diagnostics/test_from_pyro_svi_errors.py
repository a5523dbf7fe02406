import re
import sys

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal

from pyro_vrnn import from_pyro_svi
from pyro_vrnn.diagnostics._history import history


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_samples": 0}, ValueError, "Expected num_samples to be a positive int, got 0."),
        (
            {"model_args": torch.zeros(3)},
            TypeError,
            "Expected model_args to be a tuple, got Tensor.",
        ),
        (
            {"model_kwargs": [1]},
            TypeError,
            "Expected model_kwargs to be a dict, got list.",
        ),
        ({"seed": -1}, ValueError, "Expected seed to be a non-negative int, got -1."),
        (
            {"posterior": "w"},
            TypeError,
            "Expected posterior to be a bool or a list of sites, got 'w'.",
        ),
        (
            {"posterior": ["v"]},
            ValueError,
            "Expected the sites in posterior to be among w, got 'v'.",
        ),
        (
            {"dims": {"v": ["a"]}},
            ValueError,
            "Expected the names in dims to be sites of the model (w, loc, obs), got 'v'.",
        ),
        (
            {"dims": {"w": ["a", "b"]}},
            ValueError,
            "Expected at most 1 names in dims['w'], got ['a', 'b'].",
        ),
        (
            {"dims": {"w": "a"}},
            ValueError,
            "Expected at most 1 names in dims['w'], got 'a'.",
        ),
        (
            {"coords": {"place": [1]}},
            ValueError,
            "Expected the names in coords to be dims (",
        ),
        (
            {"coords": {"data": [1]}},
            ValueError,
            "Expected coords['data'] to be a list of 6 values, got shape (1,).",
        ),
        (
            {"svi_result": []},
            ValueError,
            "Expected svi_result to be a FitResult of some steps or a sequence of losses, "
            "got losses of shape (0,).",
        ),
        (
            {"prior": {"v": torch.zeros(2)}},
            ValueError,
            "Expected the names in prior to be sites of the model (w, loc, obs), got 'v'.",
        ),
        (
            {"prior": {"w": torch.zeros(2)}},
            ValueError,
            "Expected prior['w'] of shape (draws, 3), got (2,).",
        ),
        (
            {"dims": {"w": ["data"]}},
            ValueError,
            "Expected dim 'data' to have one size, got 3 and 6 (site 'loc').",
        ),
        (
            {"dims": {"w": ["chain"]}},
            ValueError,
            "Expected the names in dims['w'] to differ from each other and from chain, draw, "
            "sample, got ['chain'].",
        ),
        # Arrays of a draw in float64: w 3, loc 6, obs 6, log-likelihood 6, statistics 4.
        (
            {"max_bytes": 1000, "num_samples": 10},
            ValueError,
            "Expected an export of at most 1000 B (max_bytes), got 1.95 KiB, most of it "
            "posterior_predictive/loc 480 B, posterior_predictive/obs 480 B, log_likelihood/obs "
            "480 B: name the sites to keep in posterior=[...], lower num_samples,",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_arguments_are_checked(conjugate, options, error, message):
    options = {"model_args": conjugate.args, "num_samples": 2} | options
    with pytest.raises(error, match=re.escape(message)) as caught:
        from_pyro_svi(conjugate.model, conjugate.guide, **options)
    assert torch.is_grad_enabled(), caught  # though the traceback keeps all frames alive


def test_a_size_at_the_limit_is_allowed(conjugate):
    options = {"model_args": conjugate.args, "num_samples": 10}
    from_pyro_svi(conjugate.model, conjugate.guide, max_bytes=25 * 8 * 10, **options)


@pytest.mark.parametrize("which", ["model", "guide"])
def test_programs_are_callable(conjugate, which):
    programs = {"model": conjugate.model, "guide": conjugate.guide} | {which: 3}
    with pytest.raises(TypeError, match=f"Expected {which} to be callable, got int."):
        from_pyro_svi(**programs, model_args=conjugate.args)


def test_arviz_is_missing(conjugate, monkeypatch):
    monkeypatch.setitem(sys.modules, "arviz", None)
    with pytest.raises(ImportError, match="Expected the package arviz, got no such module"):
        from_pyro_svi(conjugate.model, conjugate.guide, model_args=conjugate.args)


def test_observations_are_missing(conjugate):
    message = "Expected the guide to sample every latent of the model, got none of 'obs'."
    with pytest.raises(ValueError, match=message):
        from_pyro_svi(conjugate.model, conjugate.guide, model_args=conjugate.args[:1])


def test_guide_has_a_latent_of_its_own(conjugate):
    def guide(x, y):
        conjugate.guide(x, y)
        pyro.sample("other", dist.Normal(0.0, 1.0))

    with pytest.raises(ValueError, match="latents of the model only, got 'other'; model_args"):
        from_pyro_svi(conjugate.model, guide, model_args=conjugate.args)


def test_data_change_from_draw_to_draw():
    def model(y):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", 100, subsample_size=10) as index:
            pyro.sample("obs", dist.Normal(w, 1.0), obs=y[index])

    message = "Expected plate 'data' to index the same data in every draw, got random subsamples"
    with pytest.raises(ValueError, match=message):
        from_pyro_svi(model, AutoNormal(model), model_args=(torch.zeros(100),), num_samples=2)


def changing(names):
    """Return a model whose deterministic site is the next of ``names`` at each run."""
    values = iter(names)

    def model(y):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        pyro.sample("obs", dist.Normal(w, 1.0), obs=y)
        name, size = next(values)
        pyro.deterministic(name, torch.zeros(size))

    def guide(y):
        pyro.sample("w", dist.Normal(0.0, 1.0))

    return model, guide


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([("a", 1), ("b", 1)], "the same sites in every run, got 'a', 'b' in some only."),
        ([("a", 1), ("a", 2)], "Expected site 'a' of shape (1,) in every draw, got (2,)."),
    ],
    ids=["names", "shapes"],
)
def test_sites_change_from_draw_to_draw(names, message):
    model, guide = changing(names)
    with pytest.raises(ValueError, match=re.escape(message)):
        from_pyro_svi(
            model,
            guide,
            model_args=(torch.tensor(0.0),),
            num_samples=2,
            posterior_predictive=False,
        )


def test_a_result_that_is_none_is_refused():
    with pytest.raises(TypeError, match=r"Expected svi_result to be what fit returned .* got dict"):
        history({"loss": [1.0]})
