"""The page of what ArviZ runs on an export, and of an export's memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Found = dict[str, Any]

TEXT = """# ArviZ on an export

Which of ArviZ's own functions run on what {{func}}`pyro_vrnn.from_pyro_svi` gives, by version.
`plain` is a linear regression in Pyro with `AutoNormal` and Pyro's own SVI, `other` the same with a
covariate less, `net` two runs of an LSTM forecaster with
{{class}}`~pyro_vrnn.infer.AutoSpikeAndSlab`, put together as chains by
{{func}}`pyro_vrnn.diagnostics.concat_runs`. {verdict}"""

MEMORY = """## Memory of an export

A classifier of token sequences with {weights:,} weights (embedding, two LSTM layers, output),
exported with {num_samples:,} draws and every other option as it is. All draws of the weights would
take {draws_gib:.1f} GiB. What did not fit in `max_bytes` was summarised, with a warning:
{summarized}.

- Peak resident memory: {peak_gib:.2f} GiB in the export, {peak_after_writing_gib:.2f} GiB after it
  was written to netCDF; {before_gib:.2f} GiB before. Target: at most {limit_gib:g} GiB,
  {mark}.
- Command: `{command}`.
- {seconds:.0f} seconds ({date}, {threads} thread, beside other work)."""


def from_results(note: str, folder: Path) -> str:
    """Return the page that the files of a folder give."""
    paths = sorted(folder.glob("arviz_functions_*.json"))
    memory = folder / "export_memory.json"
    if not paths or not memory.exists():
        raise FileNotFoundError(
            f"Expected {folder}/arviz_functions_*.json and export_memory.json: run "
            "benchmarks/arviz_functions.py and benchmarks/export_memory.py."
        )
    return page(note, [json.loads(p.read_text()) for p in paths], json.loads(memory.read_text()))


def page(note: str, records: list[Found], memory: Found) -> str:
    """Return the page."""
    text = TEXT.format(verdict=_verdict(records))
    sections = [_section(record) for record in records]
    summarized = ", ".join(f"`{name}`" for name in memory["summarized"])
    detail = MEMORY.format(
        num_samples=memory["config"]["num_samples"],
        mark="kept" if memory["holds"] else "**missed**",
        threads=memory["machine"]["torch_threads"],
        **{**memory, "summarized": summarized},
    )
    return "\n\n".join([note, text, *sections, detail]) + "\n"


def _verdict(records: list[Found]) -> str:
    parts = []
    for record in records:
        made = [row for row in record["rows"] if row["call"] is not None]
        ran = sum(row["ran"] for row in made)
        parts.append(f"ArviZ {record['arviz']}: {ran} of {len(made)} ran")
    return "; ".join(parts) + "."


def _section(record: Found) -> str:
    versions = ", ".join(f"{name} {v}" for name, v in record["versions"].items())
    facts = (
        f"- Command: `{record['command']}`, {record['date']}, "
        f"{record['wall_time_seconds']:.0f} seconds\n- Versions: {versions}"
    )
    return "\n\n".join([f"## ArviZ {record['arviz']}", facts, table(record["rows"])])


def table(rows: list[Found]) -> str:
    """Return the calls of one version as a Markdown table."""
    lines = [["what", "call", "", "warnings"], ["---"] * 4]
    for row in rows:
        if row["call"] is None:
            lines.append([row["what"], "not in this version", "", ""])
            continue
        result = "ran" if row["ran"] else f"**failed**: {_cell(row['error'])}"
        warned = "; ".join(_cell(text) for text in row["warnings"])
        lines.append([row["what"], f"`{row['call']}`", result, warned])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(text: str) -> str:
    shown = text if len(text) <= 120 else text[:117] + "..."
    return shown.replace("|", "\\|").replace("<", "&lt;")
