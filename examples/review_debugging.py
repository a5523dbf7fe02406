"""
Weight uncertainty for debugging: which reviews, words and steps a model is unsure of, and why.

A SequenceRegression predicts the rating of a review from its words. For held-out reviews: the
spread of the prediction over draws of the weights after every word, the reviews and words with most
of it, and how much of it comes from each layer, weight and gate, with the masks and noise of that
part alone on and all others at their means (and with that part alone off).

The default reviews are made up of phrases with a value each. "strange" is praise in half of the
reviews and blame in the other half, so that no number of reviews would make its rating certain;
some adjectives are in no training review, so that the model cannot know them.

    python examples/review_debugging.py --out reviews

writes ``reviews/review_debugging.json`` (configuration, versions, metrics, lists) and
``reviews/review_debugging.png``. ``--data`` takes rated reviews instead: a folder in the layout of
Pang and Lee's scale data, or a ``.csv`` or ``.jsonl`` file with columns ``--text`` and ``--label``
(``pyro_vrnn.data.read_ratings``). The first 60 words of a review count, and ratings that are not in
0..1 are brought there by the least and the greatest of the training reviews.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

import pyro_vrnn as vrnn
from pyro_vrnn.data import Documents, Vocabulary, read_ratings, split_words
from pyro_vrnn.diagnostics import SiteUncertainty, uncertainty_by_site
from pyro_vrnn.files import writable_folder, write_atomic, write_json
from pyro_vrnn.runs import check_device, machine, set_seed, versions
from pyro_vrnn.scores import rmse


@dataclass(frozen=True)
class Config:
    """What a run depends on, besides its reviews, seed and device."""

    num_train: int = 2000
    num_test: int = 60
    embedding_dim: int = 16
    hidden_size: int = 24
    drop_prob: float = 0.05
    prior_scale: float = 0.5
    start_scale: float = 0.03
    epochs: int = 20
    batch_size: int = 60
    learning_rate: float = 0.01
    num_samples: int = 50
    max_words: int = 60
    max_vocabulary: int = 5000


SMOKE = Config(num_train=60, num_test=8, hidden_size=8, epochs=1, num_samples=3)

SUBJECTS = ("plot", "acting", "music", "ending", "script", "camera work")
PRAISE = ("superb", "warm", "clever", "gripping", "lovely")
BLAME = ("dull", "wooden", "clumsy", "tired", "dreary")
STRANGE = "strange"  # worth +1 or -1 by the toss of a coin
UNSEEN = ("luminous", "turgid", "quixotic")  # in no training review


def made_up(count: int, rng: random.Random, *, unseen: bool) -> tuple[list[list[str]], list[float]]:
    """Return reviews of five phrases, and their ratings: the mean value of a phrase, in 0..1."""
    texts, ratings = [], []
    for _ in range(count):
        words, values = [], []
        lean = rng.choice((0.2, 0.5, 0.8))
        for subject in rng.sample(SUBJECTS, 5):
            verb = rng.choice(("was", "felt"))
            roll = rng.random()
            if roll < 0.12:
                adjective, value = STRANGE, rng.choice((-1.0, 1.0))
            elif unseen and roll < 0.2:
                adjective, value = rng.choice(UNSEEN), 0.0
            else:
                good = rng.random() < lean
                adjective, value = rng.choice(PRAISE if good else BLAME), 1.0 if good else -1.0
                if rng.random() < 0.15:
                    verb, value = f"{verb} not", -value
            words += ["the", *subject.split(), *verb.split(), adjective, "."]
            values.append(value)
        texts.append(words)
        ratings.append(0.5 + 0.4 * math.fsum(values) / len(values) + rng.gauss(0.0, 0.02))
    return texts, ratings


def made_up_documents(config: Config, seed: int) -> tuple[Documents, Documents, Vocabulary]:
    """Return reviews to train on and to look at, and a vocabulary that has the unseen words."""
    rng = random.Random(seed)
    parts = []
    for size, unseen in ((config.num_train, False), (config.num_test, True)):
        texts, ratings = made_up(size, rng, unseen=unseen)
        labels = torch.tensor(ratings, dtype=torch.float64)
        ids = tuple(map(str, range(size)))
        parts.append(Documents(tuple(map(tuple, texts)), labels, ids))
    words = [word for part in parts for text in part.texts for word in text]
    return parts[0], parts[1], Vocabulary.from_tokens([*words, *UNSEEN])


def read_documents(
    args: argparse.Namespace, config: Config
) -> tuple[Documents, Documents, Vocabulary]:
    """Return reviews of one's own, some of them held out, and the words of the others."""
    documents = read_ratings(args.data, text=args.text, label=args.label, tokenize=split_words)
    if len(documents) <= config.num_test + 1:
        raise ValueError(
            f"Expected more reviews than the {config.num_test} to hold out and one, "
            f"got {len(documents)} in {args.data}."
        )
    order = list(range(len(documents)))
    random.Random(args.seed).shuffle(order)
    train, test = (
        documents.select(part) for part in (order[config.num_test :], order[: config.num_test])
    )
    low, high = float(train.labels.min()), float(train.labels.max())
    if low == high:
        raise ValueError(f"Expected ratings that differ, got {low} for every training review.")
    if low < 0 or high > 1:
        train, test = (
            replace(part, labels=(part.labels - low) / (high - low)) for part in (train, test)
        )
    words = (word for text in train.texts for word in text[: config.max_words])
    return train, test, Vocabulary.from_tokens(words, config.max_vocabulary, unknown=True)


def train(
    documents: Documents, vocabulary: Vocabulary, config: Config, seed: int, device: str
) -> tuple[Any, Any]:
    """Return a trained model of the ratings, in their units, and its guide."""
    set_seed(seed)
    x, lengths = documents.padded(vocabulary, config.max_words)
    y = documents.labels.float().unsqueeze(-1)
    model = vrnn.models.SequenceRegression(
        vrnn.nn.LSTM(config.embedding_dim, config.hidden_size, prior_scale=config.prior_scale),
        1, tau=25.0, learn_tau=True, num_data=len(y), prior_scale=config.prior_scale,
        embedding=vrnn.nn.Embedding(len(vocabulary.words), config.embedding_dim),
    )  # fmt: skip
    guide = vrnn.infer.AutoSpikeAndSlab(
        model, drop_prob=config.drop_prob, scale=config.start_scale, learn_scale=True,
        scope="sequence",
    )  # fmt: skip
    vrnn.infer.fit(
        model, guide, TensorDataset(x, y, lengths),
        batch_size=config.batch_size, num_epochs=config.epochs,
        optimizer=partial(torch.optim.Adam, lr=config.learning_rate), seed=seed, device=device,
    )  # fmt: skip
    return model, guide


def by_step(x: Tensor) -> Any:
    """Return a function: network -> its prediction after every word, ``(N, T)``."""

    def run(network: Any) -> Tensor:
        outputs, _ = network.rnn(network.embedding(x).transpose(0, 1))
        predictions: Tensor = network.head(outputs).squeeze(-1).transpose(0, 1)
        return predictions

    return run


def look(model: Any, guide: Any, x: Tensor, lengths: Tensor, config: Config) -> dict[str, Any]:
    """Return the spread after every word, and that of the last prediction by part."""
    steps = uncertainty_by_site(
        model, guide, x, num_samples=config.num_samples, by="layer", run=by_step(x)
    )
    parts = {
        by: uncertainty_by_site(
            model, guide, x, lengths=lengths, num_samples=config.num_samples, by=by, without=True
        )
        for by in ("layer", "gate")
    }
    return {"steps": steps, **parts}


def word_jumps(
    documents: Documents, sd: Tensor, lengths: Tensor, vocabulary: Vocabulary, seen: set[str]
) -> dict[str, dict[str, Any]]:
    """Return, for each word, how much the spread (sd) grows on average when it is read."""
    jumps = defaultdict(list)
    for text, row, length in zip(documents.texts, sd, lengths.tolist(), strict=True):
        for t in range(1, length):
            word = text[t] if text[t] in vocabulary.index else Vocabulary.UNK
            jumps[word].append(float(row[t] - row[t - 1]))
    return {
        word: {
            "rise": math.fsum(found) / len(found),
            "occurrences": len(found),
            "in_training": word in seen,
        }
        for word, found in jumps.items()
    }


def part_table(found: SiteUncertainty) -> dict[str, dict[str, float]]:
    """Return, for each part, its variance alone and what is lost without it, over that of all."""
    assert found.without is not None
    total = found.total.sum()
    return {
        name: {
            "alone": float(alone.sum() / total),
            "lost_without": float(1 - without.sum() / total),
        }
        for name, alone, without in zip(found.names, found.variance, found.without, strict=True)
    }


def draw(path: Path, record: dict[str, Any]) -> None:
    """Draw three reviews word by word, and where the spread of all of them comes from."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 13), layout="constrained")
    left, right = figure.subfigures(2, 1, height_ratios=(1.6, 1))
    count = record["metrics"]["num_reviews"]
    made_up = record["config"]["made_up"]
    note = " (red: words that are ambiguous, or new to the model)" if made_up else ""
    for ax, (what, review) in zip(
        left.subplots(3, 1, sharey=True), record["shown"].items(), strict=True
    ):
        x = range(len(review["words"]))
        mean, spread = torch.tensor(review["mean"]), 2 * torch.tensor(review["sd"])
        ax.fill_between(x, mean - spread, mean + spread, color="C3", alpha=0.3, lw=0,
                        label="± 2 sd over draws of the weights")  # fmt: skip
        ax.plot(x, mean, "o-", color="C3", ms=3, label="mean prediction after this word")
        ax.axhline(review["rating"], color="k", ls="--", lw=1, label="its rating")
        ax.set_xticks(list(x), review["words"], rotation=60, ha="right", fontsize=8)
        for word, label in zip(review["words"], ax.get_xticklabels(), strict=True):
            if made_up and (word == STRANGE or word in UNSEEN):
                label.set(color="C3", weight="bold")
        ax.set_xlim(-0.5, len(x) - 0.5)
        ax.set(ylabel="rating", title=f"{what} of {count} held-out reviews{note}")
    handles, labels = ax.get_legend_handles_labels()
    left.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    axes = right.subplots(1, 2, width_ratios=(1, 1.6))
    for ax, by in zip(axes, ("layer", "gate"), strict=True):
        table = record["parts"][by]
        names = [name for name in table if "bias" not in name or by == "layer"]
        y = range(len(names))
        ax.barh([k - 0.2 for k in y], [table[n]["alone"] for n in names], 0.38,
                color="C0", label="it alone on")  # fmt: skip
        ax.barh([k + 0.2 for k in y], [table[n]["lost_without"] for n in names], 0.38,
                color="C1", label="lost with it alone off")  # fmt: skip
        ax.axvline(0, color="k", lw=0.8)
        ax.set_yticks(list(y), names, fontsize=8)
        ax.invert_yaxis()
        ax.set(xlabel="share of the variance with all on", title=f"by {by}")
    handles, labels = axes[0].get_legend_handles_labels()
    right.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    write_atomic(path, partial(figure.savefig, dpi=100))


def report(record: dict[str, Any]) -> str:
    """Return what a run found as text."""
    metrics = record["metrics"]
    return (
        f"RMSE of {metrics['num_reviews']} held-out reviews: {metrics['rmse']:.3f}, of the "
        f"training mean {metrics['rmse_of_the_mean']:.3f}\n\n"
        f"{lists(record['words'], record['reviews'], record['parts'])}"
    )


def lists(words: dict[str, Any], reviews: list[dict[str, Any]], parts: dict[str, Any]) -> str:
    """Return the most uncertain reviews, the words that raise the spread, and the parts as text."""
    lines = [f"{'most uncertain reviews':<60}{'sd':>8}{'error':>8}"]
    for review in reviews[:5]:
        text = " ".join(review["words"])
        lines.append(f"{text[:54] + ' ...':<60}{review['sd']:>8.3f}{review['error']:>8.3f}")
    lines += ["", f"{'words that raise the sd most':<40}{'rise':>8}{'times':>7}{'in training':>13}"]
    for word in sorted(words, key=lambda w: -words[w]["rise"])[:8]:
        found = words[word]
        known = "yes" if found["in_training"] else "no"
        lines.append(f"{word:<40}{found['rise']:>8.4f}{found['occurrences']:>7}{known:>13}")
    for by, table in parts.items():
        lines += ["", f"{'share of the variance, by ' + by:<40}{'alone':>8}{'lost without':>14}"]
        for name in sorted(table, key=lambda n: -table[n]["alone"])[:8]:
            found = table[name]
            lines.append(f"{name:<40}{found['alone']:>8.3f}{found['lost_without']:>14.3f}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Train, list what the model is unsure of and why, write the JSON and the figure."""
    parser = argparse.ArgumentParser(description="Weight uncertainty of a model of reviews.")
    parser.add_argument("--out", type=Path, default=Path("review_debugging"), help="folder")
    parser.add_argument("--data", type=Path, help="rated reviews of your own: a folder or a file")
    parser.add_argument("--text", help="the column of texts in a file; default: text")
    parser.add_argument("--label", help="the column of ratings in a file; default: label")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="such as cpu or cuda")
    parser.add_argument("--epochs", type=int, help="default: 20, and 10 with --data")
    parser.add_argument("--smoke", action="store_true", help="a few steps, to see that it runs")
    args = parser.parse_args(argv)
    settings = asdict(SMOKE if args.smoke else Config())
    if args.data is not None:
        settings |= {"epochs": 10, "embedding_dim": 64, "hidden_size": 64}
    config = Config(**settings | ({"epochs": args.epochs} if args.epochs else {}))
    device, folder = str(check_device(args.device)), writable_folder(args.out)
    started = time.perf_counter()
    documents, test, vocabulary = (
        made_up_documents(config, args.seed) if args.data is None else read_documents(args, config)
    )
    model, guide = train(documents, vocabulary, config, args.seed, device)
    x, lengths = test.padded(vocabulary, config.max_words)
    x = x.to(device)
    looked = {key: _on_cpu(found) for key, found in look(model, guide, x, lengths, config).items()}
    sd = looked["steps"].total.sqrt()
    last = torch.arange(len(sd)), lengths - 1
    mean, spread = looked["steps"].mean[last], sd[last]
    seen = {word for text in documents.texts for word in text}
    words = word_jumps(test, sd, lengths, vocabulary, seen)
    order = spread.argsort(descending=True).tolist()
    reviews = [
        {
            "words": list(test.texts[row]) if args.data is None else list(test.texts[row][:30]),
            "sd": float(spread[row]),
            "prediction": float(mean[row]),
            "rating": float(test.labels[row]),
            "error": float((mean[row] - test.labels[row]).abs()),
        }
        for row in order
    ]
    chosen = {"most uncertain": order[0], "second": order[1], "least uncertain": order[-1]}
    shown = {
        what: {
            "words": list(test.texts[row][: lengths[row]]),
            "rating": float(test.labels[row]),
            "mean": looked["steps"].mean[row, : lengths[row]].tolist(),
            "sd": sd[row, : lengths[row]].tolist(),
        }
        for what, row in chosen.items()
    }
    parts = {by: part_table(looked[by]) for by in ("layer", "gate")}
    record = {
        "example": "review_debugging",
        "config": asdict(config) | {"smoke": args.smoke, "made_up": args.data is None},
        "seed": args.seed,
        "device": device,
        "versions": versions(),
        "machine": machine(),
        "wall_time_seconds": time.perf_counter() - started,
        "metrics": {
            "rmse": rmse(test.labels, mean),
            "rmse_of_the_mean": rmse(test.labels, documents.labels.mean().expand(len(mean))),
            "num_reviews": len(test),
            "num_samples": config.num_samples,
        },
        "parts": parts,
        "shown": shown,
        "words": words,
        "reviews": reviews,
    }
    write_json(folder / "review_debugging.json", record)
    draw(folder / "review_debugging.png", record)
    print(report(record))


def _on_cpu(found: SiteUncertainty) -> SiteUncertainty:
    moved = {
        name: value.cpu() if isinstance(value, Tensor) else value
        for name, value in vars(found).items()
    }
    return SiteUncertainty(**moved)


if __name__ == "__main__":
    main()
