"""
Peak memory of an export of a model with 5 million weights, with the options as they are.

Guards against draws or traces that are kept: 1,000 draws of these weights take 20 GB.
``python benchmarks/export_memory.py`` writes ``benchmarks/results/export_memory.json``.
"""

from __future__ import annotations

import argparse
import datetime
import json
import resource
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

import pyro_vrnn as vrnn  # noqa: E402
from pyro_vrnn.runs import machine, set_seed, versions  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
LIMIT_GIB = 4.0
VOCABULARY, FEATURES, HIDDEN, CLASSES = 10_000, 400, 256, 20


def peak_gib() -> float:
    """Return the most resident memory that this process had, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def model_and_guide() -> tuple[Any, Any, tuple[torch.Tensor, torch.Tensor]]:
    """Return a classifier of token sequences, its guide, and a batch."""
    set_seed(0)
    embedding = vrnn.nn.Embedding(VOCABULARY, FEATURES)
    rnn = vrnn.nn.LSTM(FEATURES, HIDDEN, num_layers=2)
    model = vrnn.models.SequenceClassification(rnn, CLASSES, embedding=embedding)
    guide = vrnn.infer.AutoSpikeAndSlab(model)
    batch = torch.randint(VOCABULARY, (8, 10)), torch.randint(CLASSES, (8,))
    guide(*batch)
    return model, guide, batch


def measure(num_samples: int, path: Path | None) -> dict[str, Any]:
    """Export, write the export to a file if one is given, and return peaks and times."""
    model, guide, batch = model_and_guide()
    weights = sum(site.shape.numel() for site in guide.sites.values())
    before, start = peak_gib(), time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data = vrnn.from_pyro_svi(model, guide, model_args=batch, num_samples=num_samples, seed=0)
    seconds, peak = time.perf_counter() - start, peak_gib()
    if path is not None:
        data.to_netcdf(str(path), engine="h5netcdf")
    return {
        "weights": weights,
        "draws_gib": 4 * weights * num_samples / 2**30,
        "before_gib": before,
        "peak_gib": peak,
        "peak_after_writing_gib": peak_gib(),
        "limit_gib": LIMIT_GIB,
        "holds": peak_gib() <= LIMIT_GIB,
        "seconds": seconds,
        "summarized": json.loads(data.attrs.get("summarized_sites", "[]")),
        "warnings": [str(w.message) for w in caught if w.category is UserWarning],
    }


def main() -> None:
    """Measure, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--num-samples", type=int, default=1000)
    parser.add_argument("--file", type=Path, help="write the export there too")
    parser.add_argument("--out", type=Path, default=RESULTS / "export_memory.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    start = time.perf_counter()
    found = measure(options.num_samples, options.file)
    record = {
        "command": "python benchmarks/export_memory.py"
        f" --num-samples {options.num_samples}" + " --file PATH" * (options.file is not None),
        "config": {"num_samples": options.num_samples, "seed": 0},
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "wall_time_seconds": round(time.perf_counter() - start, 1),
        "versions": versions(),
        "machine": machine(),
        **found,
    }
    options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
