"""The page of ``examples/dropout_is_vi.py``, made from its JSON by ``results_page.py``."""

from __future__ import annotations

from typing import Any

TEXT = """# Dropout with weight decay as the limit of SVI

A bidirectional {num_layers}-layer {cell} of {hidden_size} units under a spike-and-slab guide
(p = {drop_prob}, untied gates), and a plain one with dropout and weight decay, get the same means
(torch's initialisation), the same masks and the same data. Compared are the gradients with respect
to the means: that of the ELBO, and that of N / B-scaled squared error plus
$(1 - p) \\lVert m \\rVert^2 / (2 s^2)$ ([the derivation](../design/dropout-limit.md)). "Distance"
is the norm of the difference over the norm of the plain gradient.

![Distance of the gradients against sigma, and where the limit fails](../_static/dropout_is_vi.png)
"""
HOLDS = """The least d of all blocks is {distance:.0f} at the largest sigma. With one noise the
distance falls like sigma, and with the mean over the noise and its negative like sigma squared, as
the claim says."""
OTHER = """`Trace_ELBO` scores log q - log p at the draw. Its limit has the decay of the blocks that
were kept, z m / s², in the place of (1 - p) m / s²: equal in mean over masks, but the gradient of
one step stays {apart:.3f} away from dropout's."""


def page(note: str, record: dict[str, Any]) -> str:
    """Return the page."""
    gradients, starts = record["gradients"], record["random_start"]
    config = record["config"]
    text = TEXT.format(**{**config, "cell": config["cell"].upper()})
    return (
        "\n\n".join(
            [
                note,
                text.rstrip(),
                _about(record),
                "## Where it holds",
                _rates(gradients),
                HOLDS.format(distance=min(gradients["min_distance"])),
                "## Another limit with a sampled KL",
                OTHER.format(apart=gradients["limits_apart"]),
                _sampled(gradients),
                "## Where it fails",
                _failures(record["block"], starts),
                _near(record["sites_near_spike"]),
            ]
        )
        + "\n"
    )


def _about(record: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {v}" for name, v in record["versions"].items())
    options = ", ".join(f"{name} {value}" for name, value in record["config"].items())
    return "\n".join(
        [
            f"- Command: `python examples/dropout_is_vi.py` ({options})",
            f"- {record['wall_time_seconds']:.1f} seconds; "
            + ", ".join(f"{name} {value}" for name, value in record["machine"].items()),
            f"- Versions: {versions}",
        ]
    )


def _table(gradients: dict[str, Any], rows: dict[str, str]) -> str:
    head = ["distance at sigma =", *(f"{sigma:g}" for sigma in gradients["sigma"]), "slope"]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for name, label in rows.items():
        errors = [f"{error:.1e}" for error in gradients["error"][name]]
        lines.append([label, *errors, f"{gradients['slope'][name]:.2f}"])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _rates(gradients: dict[str, Any]) -> str:
    return _table(
        gradients,
        {"fixed_noise": "one fixed noise", "antithetic": "mean of the noise and its negative"},
    )


def _sampled(gradients: dict[str, Any]) -> str:
    return _table(
        gradients,
        {
            "sampled_kl_to_kept_decay": "to z m / s²",
            "sampled_kl_to_dropout": "to (1 - p) m / s²",
        },
    )


def _failures(block: dict[str, list[float]], starts: dict[str, Any]) -> str:
    worst = max(range(len(block["d"])), key=lambda k: block["error"][k])
    single, column = starts["single"], starts["column"]
    last, sigma = len(starts["sigma"]) - 1, starts["sigma"]
    return "\n".join(
        [
            f"- **Blocks near 0.** The KL's gradient of one block is off by "
            f"{block['error'][worst]:.2f} / sigma at d = {block['d'][worst]:.1f}, where it is "
            "worst: it pushes the block away from 0 while weight decay pulls it there.",
            "- **Blocks of one weight** (DropConnect, a head with one output). At random starts "
            f"U(±{starts['reach']}) some weights are always near 0: the mean error of the KL's "
            f"gradient is {single['mean'][0]:.3f} ± {single['standard_error'][0]:.3f} at sigma = "
            f"{sigma[0]:g} and {single['mean'][last]:.1f} ± {single['standard_error'][last]:.1f} "
            f"(one standard error) at {sigma[last]:g}; the derivation's limit is "
            f"{single['limit']:.2f}. For columns of 32 weights it goes from "
            f"{column['mean'][0]:.2f} to {column['mean'][last]:.0e}.",
        ]
    )


def _near(near: dict[str, dict[str, Any]]) -> str:
    counts = {
        guide: (sum(site["num_near"] for site in sites.values()), len(sites))
        for guide, sites in near.items()
    }
    columns, single = counts["columns"], counts["single_weights"]
    return (
        "`guide.near_spike()` names the sites with blocks of d < 8. At torch's initialisation and "
        f"sigma = 0.01 it finds {columns[0]} blocks in {columns[1]} sites under "
        f"`AutoSpikeAndSlab`, and {single[0]} in {single[1]} sites under `AutoDropConnect`."
    )
