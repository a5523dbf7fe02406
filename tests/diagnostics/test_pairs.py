"""Diagnostics refuse a guide that was made for another model of the class."""

from __future__ import annotations

import pytest
import torch

import pyro_vrnn as vrnn
from pyro_vrnn.diagnostics import elbo_anatomy, uncertainty_by_site

X, Y = torch.randn(6, 4, 3), torch.randn(6, 1)
GIVEN = {"model_args": (X, Y), "num_samples": 2}
USES = {
    "from_pyro_svi": lambda m, g: vrnn.from_pyro_svi(m, g, **GIVEN, progress=False),
    "elbo_anatomy": lambda m, g: elbo_anatomy(m, g, **GIVEN),
    "uncertainty_by_site": lambda m, g: uncertainty_by_site(m, g, X, num_samples=2, seed=0),
}


def make():
    return vrnn.models.SequenceRegression(vrnn.nn.GRU(3, 8), 1, learn_tau=True)


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_another_model_of_the_class_is_refused(use):
    guide = vrnn.infer.AutoSpikeAndSlab(make())
    guide(X, Y)
    message = "made for, got another SequenceRegression, whose learned parameters"
    with pytest.raises(ValueError, match=message):
        use(make(), guide)
    use(guide.model, guide)
