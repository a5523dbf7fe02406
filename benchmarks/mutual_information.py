"""
Largest errors of the mutual information against an integral with 45 digits.

Guards the accuracy on which the exact divergence rests: absolute 1e-13 and relative 1e-8, for d
from 1e-6 to 1e8 and p from 1e-6 to 1 - 1e-6, of the quadrature and of the table made from it.

    python benchmarks/mutual_information.py [--output FILE]
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import Any

import mpmath as mp
import torch

from pyro_vrnn.files import write_json
from pyro_vrnn.ops.mutual_information import (
    FAR,
    mutual_information,
    mutual_information_grad,
    mutual_information_table,
)
from pyro_vrnn.runs import machine, versions

DIGITS = 45
PROBS = (0.0, 1e-6, 1e-4, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1 - 1e-4, 1 - 1e-6, 1.0)
DISTANCES = (
    *(1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.1, 0.3, 0.7, 0.999, 1.001, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0),
    *(7.0, 8.0, 10.0, 12.0, 15.0, 18.0, 19.99, 20.01, 25.0, 40.0, 100.0, 1e3, 1e5, 1e8),
)
ABSOLUTE, RELATIVE = 1e-13, 1e-8
LOOK_UPS = 13_400


def exact(d2: float, p: float) -> tuple[mp.mpf, mp.mpf]:
    """Return I and dI / d(d^2) by integrals over y of the mixture's log density and of mmse / 2."""
    if p in (0.0, 1.0):
        return mp.mpf(0), mp.mpf(0)
    d, spike_prob = mp.sqrt(mp.mpf(d2)), mp.mpf(p)

    def parts(y: mp.mpf) -> tuple[mp.mpf, mp.mpf]:
        return spike_prob * mp.npdf(y), (1 - spike_prob) * mp.npdf(y, d)

    def surprise(y: mp.mpf) -> mp.mpf:
        density = sum(parts(y))
        return -density * mp.log(density)

    def variance(y: mp.mpf) -> mp.mpf:
        a, b = parts(y)
        return a * b / (a + b)

    pieces = [(-15, d + 15)] if d < 30 else [(-15, 15), (d - 15, d + 15)]
    entropy, mmse = (
        sum(mp.quad(f, mp.linspace(a, b, 11), method="gauss-legendre") for a, b in pieces)
        for f in (surprise, variance)
    )
    return entropy - mp.log(2 * mp.pi * mp.e) / 2, mmse / 2


class Largest:
    """The largest absolute and relative error seen, and where."""

    def __init__(self) -> None:
        self.absolute: tuple[float, float, float] = (0.0, math.nan, math.nan)
        self.relative: tuple[float, float, float] = (0.0, math.nan, math.nan)

    def see(self, value: float, reference: mp.mpf, d: float, p: float, vanishes: bool) -> None:
        """Count one value; the relative error not where the limit is 0 by definition."""
        error = abs(mp.mpf(value) - reference)
        self.absolute = max(self.absolute, (float(error), d, p))
        if reference and not vanishes:
            self.relative = max(self.relative, (float(error / reference), d, p))

    def report(self) -> dict[str, dict[str, float]]:
        """Return the errors as a record for JSON."""
        fields = ("error", "d", "p")
        return {
            "absolute": dict(zip(fields, self.absolute, strict=True)),
            "relative": dict(zip(fields, self.relative, strict=True)),
        }


def errors() -> dict[str, Any]:
    """Compare both routes, value and derivative, over the whole grid."""
    names = ("quadrature", "table", "quadrature derivative", "table derivative")
    largest = {name: Largest() for name in names}
    for p in PROBS:
        table = mutual_information_table(p)
        for d in DISTANCES:
            d2 = torch.tensor([d], dtype=torch.float64).square()
            information, derivative = exact(d2.item(), p)
            value, slope = table(d2)
            found = (mutual_information(d2, p), value, mutual_information_grad(d2, p), slope)
            references = (information, information, derivative, derivative)
            for name, one, reference in zip(names, found, references, strict=True):
                largest[name].see(one.item(), reference, d, p, d >= FAR and "derivative" in name)
    return {name: one.report() for name, one in largest.items()}


def look_up_milliseconds(rounds: int = 100) -> float:
    """Return the median time of one look-up of as many blocks as two layers of 650 have."""
    table = mutual_information_table(0.25)
    d2 = torch.linspace(0, 420, LOOK_UPS, dtype=torch.float64)
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        table(d2)
        times.append(time.perf_counter() - start)
    return 1e3 * sorted(times)[rounds // 2]


def main() -> None:
    """Print the largest errors, write them as JSON, and fail if they are above the promise."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    default = Path(__file__).parent / "results" / "mutual_information.json"
    parser.add_argument("--output", type=Path, default=default)
    output = parser.parse_args().output
    start = time.perf_counter()
    with mp.workdps(DIGITS):
        found = errors()
    result = {
        "errors": found,
        "distances": DISTANCES,
        "probabilities": PROBS,
        "digits": DIGITS,
        "look_up_ms": {"blocks": LOOK_UPS, "median": look_up_milliseconds()},
        "wall_seconds": time.perf_counter() - start,
        "versions": versions() | {"mpmath": mp.__version__},
        "machine": machine(),
    }
    for name, one in found.items():
        text = ", ".join(
            f"{kind} {at['error']:.1e} at d = {at['d']:g}, p = {at['p']:g}"
            for kind, at in one.items()
        )
        print(f"{name}: {text}")
    print(f"{LOOK_UPS} look-ups: {result['look_up_ms']['median']:.2f} ms")
    output.parent.mkdir(parents=True, exist_ok=True)
    write_json(output, result)
    for name in ("quadrature", "table"):
        if (
            found[name]["absolute"]["error"] > ABSOLUTE
            or found[name]["relative"]["error"] > RELATIVE
        ):
            raise SystemExit(f"Expected errors of the {name} below {ABSOLUTE} and {RELATIVE}.")


if __name__ == "__main__":
    main()
