"""The anatomy of an ELBO as text."""

from __future__ import annotations

from collections.abc import Sequence

from pyro_vrnn.diagnostics._tables import number, text_table
from pyro_vrnn.diagnostics.elbo_terms import NOISE, ELBOAnatomy, Estimate, SiteKL


def elbo_text(anatomy: ELBOAnatomy) -> str:
    """Return the tables of totals, sites and layers, and what they say of the bound."""
    blocks = [
        f"ELBO of {anatomy.num_samples} draws (seed {anatomy.seed}), nats, "
        "± Monte Carlo standard error",
        _totals(anatomy),
        "\n".join(_remarks(anatomy)),
    ]
    if anatomy.sites:
        total = anatomy.total_kl
        assert total is not None
        blocks.append(_divergences("KL by site", (*anatomy.sites, total)))
        if len(anatomy.layers) < len(anatomy.sites):
            blocks.append(_divergences("KL by layer", anatomy.layers))
    return "\n\n".join(blocks)


def _totals(anatomy: ELBOAnatomy) -> str:
    def row(label: str, estimate: Estimate) -> list[str]:
        each = (anatomy.per_observation(estimate.value, unit) for unit in ("nats", "bits"))
        return [label, number(estimate.value), _error(estimate), *map(number, each)]

    rows = [row("expected log-likelihood", anatomy.expected_log_likelihood)]
    if len(anatomy.log_likelihood) > 1:
        rows += [row(f"  {part.name}", part.expected) for part in anatomy.log_likelihood]
    unknown = "" if anatomy.has_density else " + c"
    rows += [row(f"KL{unknown}", anatomy.kl), row(f"ELBO{unknown}", anatomy.elbo)]
    if anatomy.reference is not None:
        label = "given reference" if anatomy.reference_kind == "given" else anatomy.reference_kind
        rows.append(row(str(label), Estimate(anatomy.reference, 0.0)))
    header = ["", "total", "±", "per observation", "bits per observation"]
    return text_table(header, rows)


def _remarks(anatomy: ELBOAnatomy) -> list[str]:
    weights = sum(site.num_weights for site in anatomy.sites)
    lines = [f"{anatomy.num_observations:,.6g} observations, {weights:,} latent numbers."]
    if not anatomy.has_density:
        lines.append(
            f"No bound: the guide has no density at {_without_density(anatomy)}, so the KL and the "
            "ELBO are defined up to a constant. Compare them only between values of the means of "
            "one such guide."
        )
    elif anatomy.reference is None:
        lines.append(
            "Whether the bound is vacuous is not judged: the likelihood is no code of finitely "
            "many values, and no reference was given."
        )
    else:
        lines.append(_verdict(anatomy))
    total = anatomy.total_kl
    if anatomy.has_density and total is not None and total.constant is not None:
        each = number(anatomy.per_observation(total.constant))
        lines.append(
            f"{number(total.constant)} nats of the KL ({each} per observation) are its constant "
            "part, which no training of the means removes."
        )
    return lines


def _verdict(anatomy: ELBOAnatomy) -> str:
    assert anatomy.reference is not None
    gap = anatomy.elbo.value - anatomy.reference
    code = "uniform coding" if anatomy.reference_kind != "given" else "the given reference"
    if abs(gap) <= NOISE * anatomy.elbo.standard_error:
        return f"Whether the bound is vacuous is within noise: it is as good as {code}."
    ours, theirs = (
        number(-anatomy.per_observation(value, "bits"))
        for value in (anatomy.elbo.value, anatomy.reference)
    )
    verdict = "vacuous" if gap < 0 else "not vacuous"
    return f"The bound is {verdict}: it codes an observation in {ours} bits, {code} in {theirs}."


def _without_density(anatomy: ELBOAnatomy) -> str:
    names = [site.name for site in anatomy.sites if not site.has_density]
    if len(names) == len(anatomy.sites) > 1:
        return "any site"
    return ", ".join(names)


def _divergences(title: str, parts: Sequence[SiteKL]) -> str:
    header = [title, "numbers", "constant", "slab", "mask", "KL", "±", "Gal's", "sampled", "±"]
    rows = []
    for part in parts:
        sampled = part.sampled
        rows.append(
            [
                part.name,
                f"{part.num_weights:,}",
                number(part.constant if part.has_density else None),
                number(part.slab),
                number(part.mask),
                number(part.kl.value) + ("" if part.has_density else " + c"),
                _error(part.kl),
                number(part.gal),
                "-" if sampled is None else number(sampled.value),
                "-" if sampled is None else _error(sampled),
            ]
        )
    return text_table(header, rows)


def _error(estimate: Estimate) -> str:
    return number(estimate.standard_error) if estimate.standard_error else "exact"
