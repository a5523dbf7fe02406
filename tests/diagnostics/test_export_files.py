"""Everything that an export can hold comes back from a file as it was."""

from functools import partial

import arviz as az
import numpy as np
import pytest
import torch
import xarray

import pyro_vrnn as vrnn
from pyro_vrnn import from_pyro_svi
from pyro_vrnn.diagnostics import concat_runs
from pyro_vrnn.diagnostics._datasets import groups_of

IS_0 = int(az.__version__.split(".")[0]) < 1
GROUPS = {
    "constant_data",
    "log_likelihood",
    "observed_data",
    "posterior",
    "posterior_predictive",
    "posterior_summary",
    "predictions",
    "predictions_constant_data",
    "prior",
    "prior_predictive",
    "sample_stats",
    "svi",
}


def whole_export(seed):
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(4, size, 1, generator=generator) for size in (6, 2))
    torch.manual_seed(seed)
    model = vrnn.models.Forecaster(vrnn.nn.LSTM(1, 3), 2, num_data=8)
    guide = vrnn.infer.AutoSpikeAndSlab(model)
    adam = partial(torch.optim.Adam, lr=0.01)
    batch = x, y.squeeze(-1)
    result = vrnn.infer.fit(
        model, guide, [batch], num_epochs=1 + seed, optimizer=adam, validation=[batch], seed=seed,
        progress=False,
    )  # fmt: skip
    return from_pyro_svi(
        model,
        guide,
        model_args=batch,
        svi_result=result,
        num_samples=3,
        summarize=["rnn.weight_hh_l0"],
        prior=True,
        predictions_args=(x + 1,),
        constant_data=True,
        predictions_constant_data=True,
        coords={"horizon": [1, 2], "sequence": list("abcd")},
        seed=seed,
    )


EXPORTS = {
    "run": partial(whole_export, 1),
    "runs": lambda: concat_runs([whole_export(1), whole_export(2)]),
}


@pytest.fixture(params=EXPORTS)
def data(request):
    return EXPORTS[request.param]()


def check_same(back, data):
    found, expected = groups_of(back), groups_of(data)
    assert set(found) == set(expected)
    for group in expected:
        xarray.testing.assert_identical(found[group].load(), expected[group])
    assert back.attrs == data.attrs


@pytest.mark.parametrize(
    ("engine", "library"), [("h5netcdf", "h5py"), ("netcdf4", "netCDF4")], ids=["h5", "nc4"]
)
def test_netcdf(data, tmp_path, engine, library):
    pytest.importorskip(library)
    assert set(groups_of(data)) == GROUPS
    path = str(tmp_path / "fit.nc")
    data.to_netcdf(path, engine=engine)
    back = az.from_netcdf(path, engine=engine)
    check_same(back, data)
    back.close()


# xarray warns of zarr's format 3, which has no text of fixed length yet.
@pytest.mark.filterwarnings("ignore:.*:UserWarning")
@pytest.mark.filterwarnings("ignore:.*:FutureWarning")
def test_zarr(data, tmp_path):
    zarr = pytest.importorskip("zarr")
    path = str(tmp_path / "fit.zarr")
    if not IS_0:
        data.to_zarr(path)
        check_same(az.from_zarr(path), data)
        return
    if int(zarr.__version__.split(".")[0]) >= 3:
        # ArviZ 0.23 itself takes zarr 2 alone; xarray writes for it.
        az.to_datatree(data).to_zarr(path)
        check_same(az.from_datatree(xarray.open_datatree(path, engine="zarr")), data)
        return
    if int(xarray.__version__.split(".")[0]) >= 2026:
        pytest.skip("xarray of 2026 takes zarr 3 alone, and ArviZ 0.23 zarr 2 alone")
    data.to_zarr(path)
    check_same(az.from_zarr(path), data)


def test_attributes_are_numbers_and_text(data):
    for attrs in (data.attrs, *(dataset.attrs for dataset in groups_of(data).values())):
        assert {type(value) for value in attrs.values()} <= {str, int, float}


def test_a_file_can_be_added_to(tmp_path):
    """What was read from files concatenates as what was not."""
    paths = [str(tmp_path / f"{seed}.nc") for seed in (1, 2)]
    exports = [whole_export(seed) for seed in (1, 2)]
    for path, export in zip(paths, exports, strict=True):
        export.to_netcdf(path, engine="h5netcdf")
    back = [az.from_netcdf(path, engine="h5netcdf") for path in paths]
    merged, expected = concat_runs(back), concat_runs(exports)
    np.testing.assert_array_equal(merged["svi"]["elbo"], expected["svi"]["elbo"])
    assert merged.attrs["seed"] == expected.attrs["seed"] == "[1, 2]"
    for run in back:
        run.close()
