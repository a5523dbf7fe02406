"""Small files to train on."""

from __future__ import annotations

import numpy as np


def write_series(path, n=60):
    time = np.arange(n)
    values = 300 + 10 * np.sin(time) + np.random.default_rng(0).normal(0, 1, n)
    path.write_text("date,value\n" + "".join(f"d{i},{v:.6f}\n" for i, v in enumerate(values)))
    return path


def write_sequences(path, label, count=24, labelled=True):
    generator = np.random.default_rng(1)
    rows = ["sequence,a,b" + (",label" if labelled else "")]
    for n in range(count):
        for _ in range(generator.integers(2, 6)):
            a, b = generator.normal(50, 3), generator.normal()
            rows.append(f"s{n},{a:.5f},{b:.5f}" + (f",{label(n)}" if labelled else ""))
    path.write_text("\n".join(rows) + "\n")
    return path
