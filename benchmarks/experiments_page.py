"""The page of ``pyro-vrnn experiment``, made from the runs' JSON by ``results_page.py``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pyro_vrnn.experiments.compare import curves, read_runs, score_of
from pyro_vrnn.experiments.study_config import METHOD_TEXTS

Run = dict[str, Any]

TEXT = """# The paper's experiments, first runs

One run of each experiment and method on a CPU, with further seeds of some: what a method gains is
seen, a difference of a few points between two methods may be the seed. [What the experiments
are](../guide/experiments.md). Scores are at the means of the weights (the "standard dropout
approximation") unless they say "average over draws".

![Train and test scores by epoch](../_static/experiments.png)

The pictures and the table are those of `pyro-vrnn compare benchmarks/results/experiments`; each run
is one command,

```sh
pyro-vrnn experiment NAME --data FOLDER --method METHOD --seed SEED
```
"""
READING = """What is seen here, with few seeds:

- Language: without dropout the test perplexity turns after five or six epochs; with dropout it does
  not within 25. SVI with the spike-and-slab guide and dropout as VI take the same way.
- An average over 20 held draws is worse than the network at its means, and with embeddings at
  their means slightly better: a single draw loses a quarter of the word types for a whole text.
  The bias for finite S explains a small part.
- Ratings: for the LSTM no dropout is best at its best epoch; for the GRU the methods with dropout
  are, by less than seeds differ. What dropout gives is an error that does not rise with training.
- Intervals of the methods with dropout hold fewer ratings than they say: their noise is learned on
  training data that the network knows well by then."""
LANGUAGE = """Perplexity, every token of the text once. "Best" is the epoch of the lowest validation
perplexity; the last column is the test perplexity after the last epoch."""
SENTIMENT = """Root mean squared error of ratings in [0, 1]. The paper's split has no validation
part: "best" is the epoch of the lowest test error, which flatters every method. NLL and coverage
are of the average over draws with learned Gaussian noise, and the weights' sd is the mean
standard deviation over draws of the predicted rating."""


def page(note: str, folder: Path) -> str:
    """Return the page."""
    runs = read_runs([folder])
    names = dict.fromkeys(run["experiment"] for run in runs)
    by_name = {name: [run for run in runs if run["experiment"] == name] for name in names}
    parts = [note, TEXT.rstrip(), _about(runs), READING]
    for name, own in by_name.items():
        language = score_of(own[0]) == "perplexity"
        parts += [
            f"## {name}",
            LANGUAGE if language else SENTIMENT,
            _language_table(own) if language else _sentiment_table(own),
            *([_draws_table(own)] if language else []),
            "\n".join(f"- {line}" for line in _found(own)),
        ]
    return "\n\n".join(parts) + "\n"


def _about(runs: Sequence[Run]) -> str:
    versions = {f"{n} {v}" for run in runs for n, v in run["versions"].items()}
    machines = {f"{n} {v}" for run in runs for n, v in run["machine"].items()}
    hours = sum(run["wall_time"] for run in runs) / 3600
    return "\n".join(
        [
            f"- {hours:.1f} hours of one thread each, two runs at a time, beside other work",
            f"- Machine: {', '.join(sorted(machines))}",
            f"- Versions: {', '.join(sorted(versions))}",
        ]
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    marks = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, marks, *rows))


def _label(run: Run, runs: Sequence[Run]) -> str:
    text = METHOD_TEXTS[run["method"]]
    several = sum(other["method"] == run["method"] for other in runs) > 1
    return f"{text}, seed {run['seed']}" if several else text


def _seconds(run: Run) -> str:
    each = sorted(run["curve"]["seconds"])
    return f"{each[len(each) // 2]:.0f}"


def _language_table(runs: Sequence[Run]) -> str:
    rows = []
    for run in runs:
        by_part, best = curves(run), run["best_epoch"]
        rows.append(
            [
                _label(run, runs),
                f"{best + 1} of {len(by_part['test'])}",
                *(f"{by_part[part][best]:.1f}" for part in ("train", "valid", "test")),
                f"{by_part['test'][-1]:.1f}",
                _seconds(run),
            ]
        )
    header = ["", "best", "train", "valid", "test", "test, last epoch", "seconds an epoch"]
    return _table(header, rows)


def _draws_table(runs: Sequence[Run]) -> str:
    rows = []
    for run in runs:
        metrics = run["metrics"]
        if "mc_test_perplexity" not in metrics:
            continue
        rows.append(
            [
                _label(run, runs),
                f"{metrics['test_perplexity']:.1f}",
                str(metrics["num_samples"]),
                f"{metrics['mc_test_perplexity']:.1f}",
                f"{metrics['mc_test_geometric_mean_perplexity']:.1f}",
                f"{100 * metrics['mc_test_finite_sample_bias']:.2f} %",
                f"{metrics['mc_test_embedding_kept_perplexity']:.1f}",
            ]
        )
    header = [
        "test perplexity", "means", "S", "average over draws", "geometric mean of single draws",
        "bias for finite S", "average, embeddings at their means",
    ]  # fmt: skip
    return "Draws are held over the whole text.\n\n" + _table(header, rows)


def _sentiment_table(runs: Sequence[Run]) -> str:
    rows = []
    for run in runs:
        by_part, best, metrics = curves(run), run["best_epoch"], run["metrics"]
        rows.append(
            [
                _label(run, runs),
                f"{best + 1} of {len(by_part['test'])}",
                f"{by_part['train'][best]:.4f}",
                f"{by_part['test'][best]:.4f}",
                f"{by_part['test'][-1]:.4f}",
                f"{metrics['mc_test_rmse']:.4f}",
                str(metrics["num_samples"]),
                f"{metrics['mc_test_nll']:.3f}",
                f"{metrics['mc_test_coverage_90']:.3f}",
                f"{metrics['epistemic_sd']:.3f}",
                _seconds(run),
            ]
        )
    constant = runs[0]["metrics"]["constant_test_rmse"]
    header = [
        "", "best", "train", "test", "test, last epoch", "average over draws", "S", "NLL",
        "90 % coverage", "weights' sd", "seconds an epoch",
    ]  # fmt: skip
    rows.append(["the training mean", "", "", f"{constant:.4f}", *[""] * 7])
    return _table(header, rows)


def _found(runs: Sequence[Run]) -> list[str]:
    lines = []
    for run in runs:
        test, train = curves(run)["test"], curves(run)["train"]
        least = min(range(len(test)), key=test.__getitem__)
        lines.append(
            f"{_label(run, runs)}: lowest on the test data in epoch {least + 1} "
            f"({_show(test[least])}; training data {_show(train[least])}), in the last epoch "
            f"{_show(test[-1])} (training data {_show(train[-1])})."
        )
    seed = min(run["seed"] for run in runs)
    best = {
        run["method"]: curves(run)["test"][run["best_epoch"]] for run in runs if run["seed"] == seed
    }
    if {"dropout", "svi"} <= set(best):
        first, second = best["svi"], best["dropout"]
        lines.append(
            f"SVI against dropout as VI, at their best epochs: {_show(first)} and {_show(second)}, "
            f"{100 * (first / second - 1):+.1f} %."
        )
    return lines


def _show(value: float) -> str:
    return f"{value:.1f}" if value >= 10 else f"{value:.4f}"
