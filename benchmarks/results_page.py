"""
The documentation's pages of results, made from the JSON files of the benchmarks.

Guards against a number in the documentation that no run has given. ``--check`` says whether the
pages are what the JSON gives, which a test does too.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from benchmarks import arviz_page, experiments_page, limit_page, reliability_page  # noqa: E402

RESULTS, PAGES = ROOT / "benchmarks" / "results", ROOT / "docs" / "results"
MARKS = {True: "holds", False: "**missed**", None: ""}
Found = dict[str, Any]
TEXTS = ("what", "shape", "reference", "target", "weights of", "kind", "scope")


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table, numbers to the right."""
    marks = ["---" if name in TEXTS else "---:" for name in header]
    lines = [header, marks, *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def about(record: Found) -> str:
    """Return what a run depends on."""
    config, machine = dict(record["config"]), dict(record["machine"])
    versions = ", ".join(f"{name} {v}" for name, v in record["versions"].items())
    place = ", ".join(f"{name} {value}" for name, value in machine.items())
    options = ", ".join(f"{name} {value}" for name, value in config.items())
    load = " and ".join(f"{x:.1f} at the {when}" for when, x in record["load_average"].items())
    return "\n".join(
        [
            f"- Command: `{record['command'].strip()}` ({options})",
            f"- Date: {record['date']}; {record['wall_time_seconds'] / 60:.1f} minutes; load "
            f"average {load}",
            f"- Machine: {place}",
            f"- Versions: {versions}",
        ]
    )


def sizes(shape: dict[str, int]) -> str:
    """Return a shape in a cell."""
    return " ".join(f"{name}={size}" for name, size in shape.items())


def seconds(value: float) -> str:
    """Return seconds as milliseconds, three digits."""
    return f"{1e3 * value:.3g}" if value < 0.1 else f"{1e3 * value:.0f}"


def ratio_cell(row: Found) -> str:
    """Return the ratio, and how many times faster where it is far below 1."""
    text = f"{row['ratio']:.2f}" if row["ratio"] >= 0.1 else f"{row['ratio']:.3f}"
    if "ratio_quartiles" in row:
        low, high = row["ratio_quartiles"]
        text += f" [{low:.2f}, {high:.2f}]" if high >= 0.1 else f" [{low:.3f}, {high:.3f}]"
    return text


def target_cell(row: Found) -> str:
    """Return what was to be reached, and whether it was."""
    if row["target"] is None:
        return ""
    text = f"≤ {row['target']:.2f}" if row["target"] >= 0.1 else f"≤ {row['target']:.3f}"
    if "floor_target" in row:
        text += f" or {row['floor_target']:g} x floor"
    return f"{text}: {MARKS[row['holds']]}"


def time_rows(rows: list[Found]) -> str:
    """Return the table of a group that was timed."""
    counted = any("times_products" in row for row in rows)
    header = ["what", "shape", "threads", "reference", "ms", "ms measured", "ratio", "target"]
    header += ["x products, reference / measured"] if counted else []
    header += ["apart (draw), ms"] if any("apart_seconds" in row for row in rows) else []
    header += ["floor, ms", "x floor"] if any("floor_ratio" in row for row in rows) else []
    cells = []
    for row in rows:
        line = [row["what"], sizes(row["shape"]), str(row["threads"]), row["reference"]]
        line += [seconds(row["reference_seconds"]), seconds(row["seconds"])]
        line += [ratio_cell(row), target_cell(row)]
        if counted:
            times = row.get("times_products")
            line.append(f"{times['reference']:.1f} / {times['ours']:.1f}" if times else "")
        if "apart (draw), ms" in header:
            line.append(seconds(row["apart_seconds"]) if "apart_seconds" in row else "")
        if "x floor" in header:
            has = "floor_ratio" in row
            line.append(seconds(row["floor_seconds"]["total"]) if has else "")
            line.append(f"{row['floor_ratio']:.2f}" if has else "")
        cells.append(line)
    return table(header, cells)


def memory_rows(rows: list[Found]) -> str:
    """Return the table of peak memory."""
    header = ["what", "shape", "reference", "MiB", "MiB measured", "ratio", "target"]
    return table(
        header,
        [
            [
                row["what"],
                sizes(row["shape"]),
                row["reference"],
                f"{row['reference_bytes'] / 2**20:.1f}",
                f"{row['bytes'] / 2**20:.1f}",
                ratio_cell(row),
                target_cell(row),
            ]
            for row in rows
        ],
    )


GROUPS = {
    "layer": (
        "One layer, forward and backward",
        "Weights, masks and noise are given. Noise takes 5/3 of the products.",
    ),
    "draw": ("The draw of one layer's weights", "Beside the layer, forward and backward."),
    "step": (
        "One training step of a language model",
        "Embedding, two LSTM layers and a softmax over V words, Adam; the reference is the same "
        "network in plain torch, without Bayes. On some processors its output layer is slow "
        "because torch's own product is; a row of its own shows what oneDNN makes of it.",
    ),
    "predict": (
        "Posterior predictive",
        "Pyro's sequential `Predictive` is timed on a part of the draws and scaled up. The floor "
        "is the draw's normals and the products, measured in the same run. Many sequences: the "
        "draw is taken off and shown apart.",
    ),
    "growth": ("Growth", "The reference is the same program, not doubled."),
    "peers": ("Peers", "One layer, its draw included, forward and backward."),
    "memory": ("Peak memory", "Growth of a process's resident set during forward and backward."),
}
PARTS = ("drawing", "network forward", "assembling", "backward", "KL", "optimiser", "rest", "step")
PLAIN = ("plain forward", "plain backward", "plain optimiser", "plain step")


def profile_rows(profiles: list[Found]) -> str:
    """Return the breakdown of steps."""
    header = ["what", "shape", "threads", *PARTS, *PLAIN]
    return table(
        header,
        [
            [p["what"], sizes(p["shape"]), str(p["threads"])]
            + [f"{1e3 * p['seconds'][name]:.1f}" for name in (*PARTS, *PLAIN)]
            for p in profiles
        ],
    )


def verdict(rows: list[Found]) -> str:
    """Say how many targets were reached, and name those that were not."""
    aimed = [row for row in rows if row["target"] is not None]
    missed = [row for row in aimed if not row["holds"]]
    text = f"{len(aimed) - len(missed)} of {len(aimed)} rows that have a target reach it."
    if not missed:
        return text
    lines = [
        f"- {row['what']}, {sizes(row['shape'])}, {row['threads']} thread(s): "
        f"{ratio_cell(row)}, target {target_cell(row)}"
        for row in missed
    ]
    return f"{text} These do not:\n\n" + "\n".join(lines)


def speed_section(name: str, record: Found) -> str:
    """Return what one file says."""
    parts = [f"## {name}", about(record)]
    for threads, rates in record["rates"].items():
        best = {name: max(e[name] for e in rates["sizes"]) for name in ("mm", "times_transpose")}
        parts.append(
            f"The best matrix product of this run with {threads} thread(s), in billion "
            f"multiply-adds a second: {best['mm'] / 1e9:.0f} by torch.mm, "
            f"{best['times_transpose'] / 1e9:.0f} by oneDNN (pyro_vrnn.ops.gemm)."
        )
    parts.append(verdict(record["rows"]))
    for group, (title, text) in GROUPS.items():
        rows = [row for row in record["rows"] if row["group"] == group]
        timed = [row for row in rows if "reference_seconds" in row]
        sized = [row for row in rows if "reference_bytes" in row]
        if rows:
            parts += [f"### {title} ({name})", text]
        parts += [time_rows(timed)] if timed else []
        parts += [memory_rows(sized)] if sized else []
        if group == "step" and record["profiles"]:
            parts += [
                "Where the time goes, in ms, parts timed one after the other in turns. "
                '"Assembling" is what the Pyro program takes beyond the network, "rest" what the '
                "whole step takes beyond its parts.",
                profile_rows(record["profiles"]),
            ]
    return "\n\n".join(parts)


NOTE = "<!-- Made by benchmarks/results_page.py from benchmarks/results/*.json: edit those. -->"
SPEED_TEXT = """# Speed

Reference and measured program run in turns in one process. A ratio is the median, in brackets the
quartiles, of the ratios of the pairs; a target holds if the ratio is at most that. "x products" is
how many times longer than its matrix products alone a program takes, these at the best rate of the
run. T time steps, N sequences, H hidden units, V words, S draws."""


def speed_page() -> str:
    """Return the page of speed."""
    files = sorted(RESULTS.glob("speed_*.json"))
    if not files:
        raise FileNotFoundError(f"Expected {RESULTS}/speed_*.json: run benchmarks/speed.py.")
    names = {"speed_cpu": "CPU", "speed_cuda": "GPU"}
    sections = [
        speed_section(names.get(path.stem, path.stem), json.loads(path.read_text()))
        for path in files
    ]
    return "\n\n".join([NOTE, SPEED_TEXT, *sections]) + "\n"


SCOPE_TEXT = """# Scope of a draw: noise of the gradient, ELBO against time

`scope="batch"` draws one weight for a minibatch, `scope="sequence"` a mask for each sequence
([why both are unbiased](../design/scope.md)). Measured on the gradient of the expected
log-likelihood of one minibatch with respect to the guide's `loc`, over independent draws.

"Variance" is the trace of the gradient's covariance, "ratio" that of sequence scope over batch
scope, ± one standard error. The scores compare the two mean gradients, coordinate by coordinate, in
standard errors; under equal means their root mean square is near 1, 5 % lie beyond 1.96, and the
largest of the scores along {directions} fixed random directions is rarely above 3."""


def variance_rows(problem: Found) -> str:
    """Return the table of gradient variances."""
    header = ["sigma", "weights of", "kind", "variance, batch", "variance, sequence", "ratio"]
    header += ["scores: rms", "beyond 1.96", "largest direction"]
    rows = []
    for entry in problem["variance"]:
        for point in ("start", "trained"):
            for kind, found in entry[point].items():
                z = found["mean_z"]
                largest = max(abs(d) for d in z["directions"])
                rows.append(
                    [f"{entry['scale']:g}", point, kind]
                    + [f"{found[scope]['trace']:.3g}" for scope in ("batch", "sequence")]
                    + [f"{found['ratio']:.2f} ± {found['ratio_standard_error']:.2f}"]
                    + [f"{z['rms']:.2f}", f"{100 * z['share_above_1.96']:.1f} %", f"{largest:.1f}"]
                )
    return table(header, rows)


def training_rows(problem: Found) -> str:
    """Return the table of training."""
    training = problem["training"]
    header = ["scope", "final ELBO", "final expected log-likelihood", "seconds an epoch"]
    header += [f"seconds to ELBO {training['level']:.4g}"]
    rows = []
    for scope in ("batch", "sequence"):
        found = training[scope]
        reached = found["seconds_to_level"]
        rows.append(
            [
                scope,
                f"{found['final_elbo']:.4f}",
                f"{found['final_expected_log_likelihood']:.4f}",
                f"{found['seconds_an_epoch']:.2f}",
                "not by every seed" if reached is None else f"{reached:.1f}",
            ]
        )
    return table(header, rows)


def problem_section(name: str, problem: Found, seeds: int) -> str:
    """Return what was found on one problem."""
    facts = ", ".join(f"{key} {value}" for key, value in problem["facts"].items())
    ratios = {
        (entry["scale"], point): entry[point]["all"]
        for entry in problem["variance"]
        for point in ("start", "trained")
    }
    lower = sum(r["ratio"] + 2 * r["ratio_standard_error"] < 1 for r in ratios.values())
    return "\n\n".join(
        [
            f"## {name.capitalize()}",
            f"Data: {facts}. In {lower} of {len(ratios)} cases the whole gradient is less noisy in "
            "sequence scope by more than two standard errors.",
            variance_rows(problem),
            f"Training from the same start with the same batches and optimiser (Adam, rate "
            f"{problem['learning_rate']:g}, {problem['epochs']} epochs, sigma "
            f"{problem['training']['scale']:g}); medians of {seeds} seeds, nats a sequence. The "
            "ELBO holds the KL's constant part, which is the same in both scopes and cannot be "
            "trained away; evaluation is off the clock.",
            training_rows(problem),
        ]
    )


def scope_page() -> str:
    """Return the page of scopes."""
    path = RESULTS / "scope_variance.json"
    if not path.exists():
        raise FileNotFoundError(f"Expected {path}: run benchmarks/scope_variance.py.")
    record = json.loads(path.read_text())
    some = next(iter(record["problems"].values()))["variance"][0]["start"]["all"]
    text = SCOPE_TEXT.format(directions=len(some["mean_z"]["directions"]))
    figure = (
        "![ELBO and expected log-likelihood against seconds of training](../_static/scope_elbo.png)"
    )
    seeds = len(record["config"]["seeds"])
    sections = [problem_section(n, p, seeds) for n, p in record["problems"].items()]
    return "\n\n".join([NOTE, text, about(record), figure, *sections]) + "\n"


INDEX = f"""{NOTE}

# Results

What the benchmarks of this repository found, each page made from the JSON of a run.

```{{toctree}}
speed
scope
dropout_is_vi
reliability
arviz
experiments
```
"""


def dropout_page() -> str:
    """Return the page of the limit of SVI."""
    path = RESULTS / "dropout_is_vi.json"
    if not path.exists():
        raise FileNotFoundError(f"Expected {path}: run examples/dropout_is_vi.py.")
    return limit_page.page(NOTE, json.loads(path.read_text()))


def reliability() -> str:
    """Return the page of training's reliability."""
    path = RESULTS / "reliability.json"
    if not path.exists():
        raise FileNotFoundError(f"Expected {path}: run benchmarks/reliability.py.")
    return reliability_page.page(NOTE, json.loads(path.read_text()))


def pages() -> dict[str, str]:
    """Return the text of each page, by its file's name."""
    return {
        "index.md": INDEX,
        "speed.md": speed_page(),
        "scope.md": scope_page(),
        "dropout_is_vi.md": dropout_page(),
        "reliability.md": reliability(),
        "experiments.md": experiments_page.page(NOTE, RESULTS / "experiments"),
        "arviz.md": arviz_page.from_results(NOTE, RESULTS),
    }


def differing(folder: Path = PAGES) -> list[str]:
    """Return the names of the pages that are not what the JSON gives."""
    return [
        name
        for name, text in pages().items()
        if not (folder / name).exists() or (folder / name).read_text(encoding="utf-8") != text
    ]


def main() -> None:
    """Write the pages, or check them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if they differ")
    if parser.parse_args().check:
        names = differing()
        if names:
            raise SystemExit(
                f"Expected docs/results to be what the JSON gives, got other {', '.join(names)}: "
                "run python benchmarks/results_page.py."
            )
        return
    PAGES.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (PAGES / name).write_text(text, encoding="utf-8")
        print(PAGES / name)


if __name__ == "__main__":
    main()
