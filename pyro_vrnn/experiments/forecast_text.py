"""A study's findings as text: what the demo prints."""

from __future__ import annotations

from typing import Any

from pyro_vrnn.experiments.forecast_report import LEVELS, METHODS
from pyro_vrnn.experiments.forecasts import NOISE_FACTORS

COLUMNS = (
    "RMSE",
    "NLL",
    "CRPS",
    *(f"{level:.0%} {part}" for level in LEVELS for part in ("score", "width", "coverage")),
)


def cells(scores: dict[str, Any]) -> list[str]:
    """Return one method's scores as the cells of a table, in the order of :data:`COLUMNS`."""
    found = [f"{scores[name]:.4g}" for name in ("rmse", "nll", "crps")]
    for level in LEVELS:
        part = scores[f"interval_{level:.0%}"]
        low, high = part["coverage_range"]
        found += [f"{part['score']:.4g}", f"{part['width']:.4g}"]
        found.append(f"{part['coverage']:.2f} [{low:.2f}, {high:.2f}]")
    return found


def table(found: dict[str, Any]) -> str:
    """Return the test scores as a text table, a method in each row."""
    rows = [["", *COLUMNS]]
    rows += [[label, *cells(found["test"][name])] for name, label in METHODS.items()]
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = []
    for first, *rest in rows:
        padded = [f"{c:>{w}}" for c, w in zip(rest, widths[1:], strict=True)]
        lines.append("  ".join(["", f"{first:<{widths[0]}}", *padded]))
    return "\n".join(lines)


def difference_table(found: dict[str, Any]) -> str:
    """Return the paired differences of CRPS and NLL as a text table."""
    label = max(map(len, METHODS.values()))
    lines = [f"  {'':<{label}}  {'CRPS':<28}  NLL"]
    for name, parts in found["test_difference"].items():
        ranges = [
            "{mean:+.3g} [{lower:+.3g}, {upper:+.3g}]".format(**parts[key])
            for key in ("crps", "nll")
        ]
        lines.append(f"  {METHODS[name]:<{label}}  {ranges[0]:<28}  {ranges[1]}")
    return "\n".join(lines)


def describe(found: dict[str, Any]) -> str:
    """Return a page of text: data, split, choices, test scores, what the differences are worth."""
    series, plan, chosen = found["series"], found["plan"], found["chosen"]
    sizes = {
        name: plan[f"{name}_targets"][1] - plan[f"{name}_targets"][0]
        for name in ("train", "validation", "test")
    }
    lines = [
        f"{series['name']} ({series['source']}): {series['values']} values, "
        f"{series['gaps_interpolated']} gaps interpolated.",
        f"In time order: {sizes['train']} values to train on, {sizes['validation']} to choose "
        f"with, {sizes['test']} to test on ({found['config']['num_origins']} origins, "
        f"{plan['horizon']} steps each, no overlap); season {plan['season']}.",
        "Chosen on the validation part, by each method for itself:",
        f"  {METHODS['bayesian']}: lag {chosen['lag']}, p = {chosen['drop_prob']}, "
        f"sigma = {chosen['scale']}, noise x {chosen['noise_factor']}",
    ]
    for name, trial in found["plain_chosen"].items():
        p = f", p = {trial['drop_prob']}" if trial["drop_prob"] else ""
        members = f" of {found['config']['ensemble_size']}" if name == "ensemble" else ""
        lines.append(
            f"  {METHODS[name]}{members}: lag {trial['lag']}{p}, noise x {trial['noise_factor']}"
        )
    lines += [
        "Test part, read once (coverage with its 95 % bootstrap range over origins):",
        "",
        table(found),
        "",
        "Seasonal naive expects the last season again, plus the usual drift; last change is what",
        "the networks' arithmetic predicts without a network, "
        f"x[t+h-{chosen['lag']}] plus the last change.",
        "Differences, Bayesian minus each, paired by origin, with 95 % ranges (below 0: better):",
        "",
        difference_table(found),
        "",
        *_cautions(found),
    ]
    return "\n".join(lines)


def _cautions(found: dict[str, Any]) -> list[str]:
    """Say what the numbers do not show."""
    elbo = found["elbo_per_observed_value"]
    shares = [f"{METHODS['bayesian']} {found['variance_share_of_weights']:.2%}"]
    shares += [f"{METHODS[n]} {share:.2%}" for n, share in found["plain_variance_share"].items()]
    lines = [
        "Share of the predictive variance that comes from the weights: " + ", ".join(shares) + "."
    ]
    trials = {"bayesian": found["chosen"], **found["plain_chosen"]}
    at_end = [
        METHODS[name]
        for name, trial in trials.items()
        if trial["noise_factor"] in (NOISE_FACTORS[0], NOISE_FACTORS[-1])
    ]
    if at_end:
        lines.append(
            f"The noise factor is at the end of its grid ({', '.join(at_end)}): do not trust those "
            "intervals."
        )
    lines.append(
        f"ELBO per observed value: {elbo['elbo']:.2f} nats = {elbo['expected_log_likelihood']:.2f} "
        f"expected log-likelihood - {elbo['kl']:.2f} KL (constant part {elbo['kl_constant']:.2f})."
    )
    if elbo["vacuous"]:
        lines.append(
            "As a bound on the evidence that is vacuous: seasonal naive, without any weights, has "
            f"{elbo['seasonal_naive_log_likelihood']:.2f}. Judge the model by the test part."
        )
    return lines
