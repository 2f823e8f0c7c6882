"""Plain text that lines up: how reports are printed."""

from __future__ import annotations

from collections.abc import Sequence

FEW_PROMPTS = 30
"""Below it the bootstrap's intervals of all but shares are too narrow to be trusted."""


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows as columns two spaces apart, without trailing blanks. Words to the left; a column whose
    cells, the first row's apart, are all counts goes to the right."""
    columns = [
        [row[at] if at < len(row) else "" for row in rows] for at in range(max(map(len, rows)))
    ]
    padded = []
    for cells in columns:
        width = max(map(len, cells))
        is_counts = all(cell.replace(",", "").isdigit() or not cell for cell in cells[1:])
        padded.append([cell.rjust(width) if is_counts else cell.ljust(width) for cell in cells])
    return "\n".join("  ".join(cells).rstrip() for cells in zip(*padded, strict=True))


def few_prompts(prompts: int) -> list[str]:
    """A line of warning, or none."""
    if prompts >= FEW_PROMPTS:
        return []
    return [
        f"prompts: only {prompts}, so the intervals of AUCs, F1, kappas and correlations are "
        "narrower than the truth"
    ]
