"""The page of ``benchmarks/reliability.py``, made from its JSON by ``results_page.py``."""

from __future__ import annotations

from typing import Any

Found = dict[str, Any]

TEXT = """# Can training be relied on?

`vrnn.infer.fit` was killed, signalled, fed with NaN and infinity, repeated in one process, run for
long and run at once with another fit. {kept} of {count} rows hold. Models are small; training goes
through five recipes (`benchmarks/reliability_child.py`): a list of batches, a shuffled dataset, a
schedule by step, validation, accumulation. Equal means every bit of parameters, optimiser,
schedule, history and generators."""
DETAILS = """- A kill is aimed at a random step, at a save or at the reading of a checkpoint, and
  comes a random time after it; where it landed is what the process said last. Then the same
  command is started again, until the run has had its kills, and then to the end. `kill -9` ends a
  process, not the machine: what a power cut leaves also depends on the disk.
- A checkpoint is written every second step, under signals once an epoch (6 or 12 steps) and by the
  signal itself. Its age is counted in steps.
- A thread's fit waits for the other one's; processes do train at once.
- History is {history:.2f} MiB of each 10,000 steps' memory; resident memory scatters by
  {memory:.2f} MiB about the line over steps.
- Over fits the growth is {fits:.0f} bytes a fit, {growth:.2f} MiB over those counted; memory
  scatters by {repeats:.3f} MiB about that line."""


def page(note: str, record: Found) -> str:
    """Return the page."""
    rows = [row for part in record.values() for row in part["rows"]]
    text = TEXT.format(kept=sum(row["holds"] for row in rows), count=len(rows))
    details = _details(record["memory"], record["repeats"])
    return "\n\n".join([note, text, table(rows), details, "## Runs", _runs(record)]) + "\n"


def _details(memory: Found, repeats: Found) -> str:
    of_fits, config = repeats["rows"][0]["value"], repeats["config"]
    return DETAILS.format(
        history=memory["history_mib_per_10000_steps"],
        memory=memory["spread_mib"],
        repeats=repeats["spread_mib"],
        fits=of_fits / 100 * 2**20,
        growth=of_fits / 100 * (config["times"] - config["warm-up"]),
    )


def table(rows: list[Found]) -> str:
    """Return the rows as a Markdown table."""
    header = ["what", "how often", "result", "target", ""]
    lines = [header, ["---", "---", "---:", "---:", "---"]]
    for row in rows:
        result = f"{row['value']:g} {row['unit']}".strip()
        verdict = "holds" if row["holds"] else "**missed**"
        lines.append([row["what"], row["often"], result, f"≤ {row['target']:g}", verdict])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _runs(record: Found) -> str:
    lines = []
    for part in record.values():
        options = ", ".join(f"{k} {v}" for k, v in part["config"].items() if k != "quick")
        load = " and ".join(f"{x:.1f} at the {when}" for when, x in part["load_average"].items())
        lines.append(
            f"- `{part['command']}` ({options}; seed {part['seed']}): {part['date']}, "
            f"{part['wall_time_seconds'] / 60:.1f} minutes, load average {load}"
        )
    for what in ("machine", "versions"):
        texts = [", ".join(f"{k} {v}" for k, v in part[what].items()) for part in record.values()]
        lines += [f"- {what.capitalize()}: {text}" for text in dict.fromkeys(texts)]
    return "\n".join(lines)
