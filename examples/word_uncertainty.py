"""
What a language model is unsure of: words that are ambiguous, and words that it does not know.

A LanguageModel is trained on sentences of a small made-up language. In it the faces of a die are
equally likely, so that nothing can be learned about the next one, and some plants are seen only
once: their colour is fixed, but the model has hardly seen it. The predictive entropy of each word
of a held-out text is split into the mean entropy of the draws (aleatoric) and the rest, on which
the draws do not agree (epistemic). For the made-up language the true entropy stands beside them.

    python examples/word_uncertainty.py --out words

writes ``words/word_uncertainty.json`` (configuration, versions, metrics, lists) and
``words/word_uncertainty.png``. ``--data FOLDER`` takes a text of your own instead, a folder with a
training, a validation and a test file (``pyro_vrnn.data.read_corpus``).
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

import pyro_vrnn as vrnn
from pyro_vrnn.data import Corpus, StreamWindows, Vocabulary, read_corpus
from pyro_vrnn.files import writable_folder, write_atomic, write_json
from pyro_vrnn.infer import LanguageScores, score_language
from pyro_vrnn.runs import check_device, machine, set_seed, versions


@dataclass(frozen=True)
class Config:
    """What a run depends on, besides its text, seed and device."""

    num_sentences: int = 3000
    embedding_dim: int = 24
    hidden_size: int = 48
    drop_prob: float = 0.05
    prior_scale: float = 0.5
    start_scale: float = 0.03
    epochs: int = 14
    batch_size: int = 20
    window: int = 20
    learning_rate: float = 0.01
    num_samples: int = 50
    context: int = 2  # words before a place that name it in the lists
    max_scored: int = 2000  # held-out words
    listed: int = 8


PARTS = ("aleatoric", "epistemic")
FEW = 2  # times in training

SMOKE = Config(num_sentences=60, hidden_size=8, epochs=1, num_samples=3)

OPEN = {  # what nobody can know, and how likely each is
    "the coin shows": {"heads": 1, "tails": 1},
    "the die shows": dict.fromkeys(("one", "two", "three", "four", "five", "six"), 1),
    "the wind comes from the": dict.fromkeys(("north", "south", "east", "west"), 1),
    "the baker sells": {"bread": 4, "cakes": 1},
}
FIXED = {
    "the ferry leaves at": "noon", "the tram leaves at": "midnight", "the bus leaves at": "dawn",
    "the otter sleeps in the": "reeds", "the badger sleeps in the": "sett",
    "the swallow sleeps in the": "barn",
}  # fmt: skip
COLOURS = ("red", "white", "blue", "yellow")
COMMON = dict(zip(("poppy", "daisy", "gentian", "cowslip"), COLOURS, strict=True))
RARE = {  # once each in the training text
    "velmora": "red", "quisten": "white", "harrowby": "blue", "tandlewort": "yellow",
    "osmerel": "red", "brinfoil": "white", "duskpetal": "blue", "wimberley": "yellow",
}  # fmt: skip


def made_up(num_sentences: int, rng: random.Random) -> list[str]:
    """Return sentences of the made-up language, without its rare plants."""
    found = []
    for _ in range(num_sentences):
        kind = rng.random()
        if kind < 0.5:
            start = rng.choice(list(OPEN))
            ends = OPEN[start]
            found.append(f"{start} {rng.choices(list(ends), list(ends.values()))[0]}")
        elif kind < 0.75:
            start = rng.choice(list(FIXED))
            found.append(f"{start} {FIXED[start]}")
        else:
            found.append(_flowers(rng.choice(list(COMMON)), COMMON))
    return found


def _flowers(plant: str, colours: dict[str, str]) -> str:
    return f"the {plant} has {colours[plant]} flowers"


def made_up_corpus(num_sentences: int, seed: int) -> Corpus:
    """Return the made-up text as ids; each rare plant is in it once, and once in the test text."""
    rng = random.Random(seed)
    rare = [_flowers(plant, RARE) for plant in RARE]
    texts = {}
    for split, size in (("train", num_sentences), ("valid", 40), ("test", 60)):
        sentences = made_up(size, rng) + (rare if split != "valid" else [])
        rng.shuffle(sentences)
        texts[split] = [w for s in sentences for w in (*s.split(), Vocabulary.EOS)]
    vocabulary = Vocabulary.from_tokens([*texts["train"], *texts["test"]])
    return Corpus(vocabulary, **{split: vocabulary.ids(words) for split, words in texts.items()})


def sentence_probs() -> dict[tuple[str, ...], float]:
    """Return how likely each sentence of the made-up language is, the rare plants left out."""
    probs = {}
    for start, ends in OPEN.items():
        for end, weight in ends.items():
            probs[f"{start} {end}"] = 0.5 / len(OPEN) * weight / sum(ends.values())
    probs |= {f"{start} {end}": 0.25 / len(FIXED) for start, end in FIXED.items()}
    probs |= {_flowers(plant, COMMON): 0.25 / len(COMMON) for plant in COMMON}
    return {(*sentence.split(), Vocabulary.EOS): p for sentence, p in probs.items()}


def true_entropy(prefix: tuple[str, ...]) -> float:
    """Return the entropy of the word after the first words of a sentence, in nats."""
    following: defaultdict[str, float] = defaultdict(float)
    for sentence, p in sentence_probs().items():
        if sentence[: len(prefix)] == prefix:
            following[sentence[len(prefix)]] += p
    total = math.fsum(following.values())
    return math.fsum(-p / total * math.log(p / total) for p in following.values()) + 0.0


def train_and_score(
    corpus: Corpus, config: Config, seed: int, device: str
) -> tuple[LanguageScores, LanguageScores]:
    """Train on the training text; score the test text under draws, and under the mean weights."""
    set_seed(seed)
    windows = StreamWindows(corpus.train, config.batch_size, config.window)
    model = vrnn.models.LanguageModel(
        len(corpus.vocabulary.words), config.embedding_dim, config.hidden_size,
        num_data=windows.num_targets, prior_scale=config.prior_scale,
    )  # fmt: skip
    guide = vrnn.infer.AutoSpikeAndSlab(
        model,
        drop_prob=config.drop_prob,
        scale=config.start_scale,
        learn_scale=True,
        scope="sequence",
    )
    vrnn.infer.fit(
        model, guide, vrnn.infer.CarriedState(windows, model),
        num_epochs=config.epochs,
        optimizer=partial(torch.optim.Adam, lr=config.learning_rate),
        clip_norm=5.0 * windows.num_targets / config.batch_size,
        seed=seed, device=device,
    )  # fmt: skip
    held_out = StreamWindows(corpus.test[: config.max_scored + 1], 1, 100)
    score = partial(score_language, model, guide, held_out, seed=seed, progress=False)
    return score(num_samples=config.num_samples, entropies=True), score(draws="mean")


def places(corpus: Corpus, config: Config, scores: LanguageScores) -> list[dict[str, Any]]:
    """Return, for each word of the test text, what was before it and how unsure the model was."""
    words = corpus.vocabulary.tokens(corpus.test[: scores.num_tokens + 1].tolist())
    assert scores.aleatoric is not None
    assert scores.epistemic is not None
    rows, start = [], 0
    for place in range(scores.num_tokens):
        start = place + 1 if words[place] == Vocabulary.EOS else start
        if place + 1 < config.context:
            continue
        rows.append(
            {
                "before": " ".join(words[place + 1 - config.context : place + 1]),
                "word": words[place + 1],
                "prefix": tuple(words[start : place + 1]),
                "aleatoric": float(scores.aleatoric[place]),
                "epistemic": float(scores.epistemic[place]),
            }
        )
    return rows


def by_context(
    rows: list[dict[str, Any]], corpus: Corpus, config: Config
) -> dict[str, dict[str, float]]:
    """Return the mean over the places after the same words, and how often training had them."""
    train = corpus.vocabulary.tokens(corpus.train.tolist())
    size = config.context
    counts = Counter(" ".join(train[i : i + size]) for i in range(len(train) - size + 1))
    groups = defaultdict(list)
    for row in rows:
        groups[row["before"]].append(row)
    keys = [key for key in (*PARTS, "true") if key in rows[0]]
    return {
        before: {
            **{key: math.fsum(row[key] for row in group) / len(group) for key in keys},
            "seen": counts[before],
        }
        for before, group in groups.items()
    }


def passage(rows: list[dict[str, Any]], size: int) -> list[dict[str, Any]]:
    """Return the sentences, of so many words, that the draws agree on least."""
    starts = [0, *(i + 1 for i, row in enumerate(rows) if row["word"] == Vocabulary.EOS)]
    starts = [s for s in starts if s + size <= len(rows)] or [0]
    first = max(starts, key=lambda s: math.fsum(row["epistemic"] for row in rows[s : s + size]))
    return rows[first : first + size]


def draw(path: Path, record: dict[str, Any]) -> None:
    """Draw the words of a passage with their two parts, and all contexts by the two parts."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 10), layout="constrained")
    top, bottom = figure.subplots(2, 1, height_ratios=(1, 1.5))
    shown = record["passage"]
    x = range(len(shown))
    aleatoric, epistemic = ([row[key] for row in shown] for key in PARTS)
    top.bar(x, aleatoric, color="C0", label="aleatoric: open whatever the weights")
    top.bar(x, epistemic, bottom=aleatoric, color="C3", label="epistemic: the draws do not agree")
    if "true" in shown[0]:
        top.plot(
            x, [row["true"] for row in shown], "_", color="k", ms=11, mew=1.5,
            label="entropy of the language",
        )  # fmt: skip
    top.set_xticks(list(x), [row["word"] for row in shown], rotation=70, ha="right", fontsize=8)
    top.set_xlim(-0.7, len(shown) - 0.3)
    top.set_ylim(0, 1.3 * max(a + e for a, e in zip(aleatoric, epistemic, strict=True)))
    top.set(
        ylabel="entropy of the prediction (nats)", title="How open each word was before it came"
    )
    top.legend(frameon=False, ncols=3, loc="upper left")
    _draw_contexts(bottom, record["contexts"], record["config"]["listed"])
    write_atomic(path, partial(figure.savefig, dpi=110))


def _draw_contexts(ax: Any, contexts: dict[str, Any], listed: int) -> None:
    for found in contexts.values():
        rare = found["seen"] <= FEW
        style = {"marker": "^" if rare else "o", "color": "C3" if rare else "C0"}
        ax.plot(found["aleatoric"], found["epistemic"], **style, ms=6, alpha=0.7, ls="")
    tops = [sorted(contexts, key=lambda n: -contexts[n][key])[:listed] for key in PARTS]
    names = dict.fromkeys(name for top in tops for name in top)
    taken: list[tuple[float, float]] = []
    width, height = (max(found[key] for found in contexts.values()) for key in PARTS)
    for name in sorted(names, key=lambda n: -contexts[n]["epistemic"]):
        at = contexts[name]["aleatoric"], contexts[name]["epistemic"]
        level = at[1]  # moved down until it is clear of the labels above it
        while any(abs(at[0] - a) < 0.2 * width and abs(level - e) < 0.03 * height
                  for a, e in taken):  # fmt: skip
            level -= 0.01 * height
        taken.append((at[0], level))
        ax.annotate(
            f"{name} _", at, xytext=(at[0] + 0.015 * width, level), fontsize=8, va="center",
            arrowprops={"arrowstyle": "-", "color": "0.7", "lw": 0.6} if level < at[1] else None,
        )  # fmt: skip
    ax.plot([], [], "^", color="C3", label=f"after words seen at most {FEW} times in training")
    ax.plot([], [], "o", color="C0", label="after words seen more often")
    ax.set_xlim(-0.03 * width, 1.2 * width)
    ax.set(xlabel="aleatoric (nats)", ylabel="epistemic (nats)", title="What comes after ...")
    ax.legend(frameon=False)


def report(record: dict[str, Any]) -> str:
    """Return what a run found as text."""
    metrics = record["metrics"]
    return (
        f"perplexity of {metrics['num_tokens']} held-out words: {metrics['perplexity']:.2f} with "
        f"{metrics['num_samples']} draws, {metrics['perplexity_at_means']:.2f} with the mean "
        f"weights\n\n{lists(record['contexts'], record['config']['listed'])}"
    )


def lists(contexts: dict[str, dict[str, float]], listed: int) -> str:
    """Return the most ambiguous and the most uncertain places as text."""
    first = next(iter(contexts.values()))
    keys = [key for key in (*PARTS, "true") if key in first]
    lines = []
    for part, title in zip(PARTS, ("most ambiguous", "most uncertain"), strict=True):
        lines.append(f"{title:<28}{''.join(f'{key:>10}' for key in keys)}{'seen':>7}")
        for name in sorted(contexts, key=lambda n: -contexts[n][part])[:listed]:
            found = contexts[name]
            values = "".join(f"{found[key]:>10.3f}" for key in keys)
            lines.append(f"{name + ' _':<28}{values}{found['seen']:>7}")
        lines.append("")
    return "\n".join(lines[:-1])


def main(argv: Sequence[str] | None = None) -> None:
    """Train, list what the model is unsure of, write the JSON and the figure."""
    parser = argparse.ArgumentParser(description="What a language model is unsure of.")
    parser.add_argument("--out", type=Path, default=Path("word_uncertainty"), help="folder")
    parser.add_argument("--data", type=Path, help="folder of a text of your own, in three files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="such as cpu or cuda")
    parser.add_argument("--epochs", type=int, help="default: 14, and 5 with --data")
    parser.add_argument("--smoke", action="store_true", help="a few steps, to see that it runs")
    args = parser.parse_args(argv)
    settings = asdict(SMOKE if args.smoke else Config())
    if args.data is not None:  # a place is named by one word: two are seldom seen again
        settings |= {"context": 1, "epochs": 5, "hidden_size": 128, "embedding_dim": 128}
    config = Config(**settings | ({"epochs": args.epochs} if args.epochs else {}))
    device, folder = str(check_device(args.device)), writable_folder(args.out)
    started = time.perf_counter()
    corpus = (
        made_up_corpus(config.num_sentences, args.seed)
        if args.data is None
        else read_corpus(args.data)
    )
    scores, at_means = train_and_score(corpus, config, args.seed, device)
    rows = places(corpus, config, scores)
    if args.data is None:
        rows = [row | {"true": true_entropy(row["prefix"])} for row in rows]
    record = {
        "example": "word_uncertainty",
        "config": asdict(config) | {"smoke": args.smoke, "made_up": args.data is None},
        "seed": args.seed,
        "device": device,
        "versions": versions(),
        "machine": machine(),
        "wall_time_seconds": time.perf_counter() - started,
        "metrics": {
            "perplexity": scores.perplexity,
            "geometric_mean_perplexity": scores.geometric_mean_perplexity,
            "perplexity_at_means": at_means.perplexity,
            "num_tokens": scores.num_tokens,
            "num_samples": scores.num_samples,
            "draws": scores.draws,
        },
        "passage": passage(rows, 45),
        "contexts": by_context(rows, corpus, config),
    }
    write_json(folder / "word_uncertainty.json", record)
    draw(folder / "word_uncertainty.png", record)
    print(report(record))


if __name__ == "__main__":
    main()
