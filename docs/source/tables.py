"""The tables of the READMEs in Markdown, from the figures of measure/results/."""

import statistics
from pathlib import Path

import charts


def losses(steps: list[dict]) -> str:
    """The table of losses in Markdown."""
    rows = ["| script | parameters | val loss (lowest to highest) | in the video |"]
    rows.append("| --- | --- | --- | --- |")
    for step in steps:
        size, said = step["settings"].get("size"), step["in_the_video"] or ""
        link = f"[{step['file']}](../{step['file']})"
        name = f"{link}, {size} size" if size else link
        spread = f"{step['lowest']:.3f} to {step['highest']:.3f}"
        if len(step["runs"]) == 1:
            spread = f"seed {step['runs'][0]['seed']} alone"
        spread = f"{step['val_loss']:.3f} ({spread})"
        not_run = size == "laptop" and said  # the video's loss is one of the full size
        rows.append(f"| {name} | {step['parameters']:,} | {spread} | {'' if not_run else said} |")
        if not_run:
            rows.append(f"| {link}, full size | | not run by us | {said} |")
    return "\n".join(rows)


def lessons_table(steps: list[dict], times: dict) -> str:
    """The lessons with their val loss, the time of a step and the lines they add, in Markdown."""
    rows = ["| lesson | the idea | val loss | ms a step | lines |", "| --- " * 5 + "|"]
    for step in steps:
        file, ms = Path(step["file"]).name, str(times["default"]["ms"][step["name"]])
        if without := times["float32"]["ms"].get(step["name"]):
            ms += f" ({without})"
        cells = [f"[{file}]({file})", step["cause"], f"{step['val_loss']:.2f}", ms]
        cells.append(f"{step['added'] - step['removed']:+d}".replace("-", "−"))
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def vocabulary_table(found: dict) -> str:
    """Val loss after equal seconds with each vocabulary, in Markdown."""
    seconds = list(dict.fromkeys(row[0] for row in found["rows"]))
    heads = "".join(f" after {one} s | steps |" for one in seconds)
    rows = [f"| tokens |{heads}", "| --- |" + " --- | --- |" * len(seconds)]
    for size in dict.fromkeys(row[1] for row in found["rows"]):
        cells = [row for row in found["rows"] if row[1] == size]
        rows.append(f"| {size:,} |" + "".join(f" {row[4]:.3f} | {row[3]:,} |" for row in cells))
    return "\n".join(rows)


def race_table(found: dict) -> str:
    """Val loss and seconds of everybody, for each machine that raced, in Markdown."""
    tables = []
    for entry in found["times"]:
        used = entry["machine"]
        built = "with" if used["avx512_bf16"] else "without"
        rows = ["| | ms a step | optimiser steps | seconds | val loss |", "| --- " * 5 + "|"]
        for name, times in entry["ms"].items():
            ms = statistics.median(times)
            for steps, seeds in found["losses"][name].items():
                cells = [name, f"{ms:.0f}", f"{int(steps):,}", f"{int(steps) * ms / 1000:.0f}"]
                rows.append(f"| {' | '.join(cells)} | {statistics.mean(seeds):.2f} |")
        head = f"{used['cores']} cores of an {used['cpu']} {built} AVX-512 BF16:\n\n"
        tables.append(head + "\n".join(rows))
    return "\n\n".join(tables)


def table(*rows: tuple) -> str:
    """Rows of cells in Markdown, of which the first is the head."""
    lines = [f"| {' | '.join(map(str, row))} |" for row in rows]
    lines.insert(1, "| --- " * len(rows[0]) + "|")
    return "\n".join(lines)


def reward_table(runs: dict[str, list[dict]]) -> str:
    """Right answers at the end of each run of measure/reward.py, and what it took."""
    rows = [("run", "right of 1,000, seed by seed", "mean", "seconds of one core")]
    for name, found in runs.items():
        right = [one["rows"][-1][1] for one in found]
        took = statistics.mean(one["rows"][-1][0] for one in found)
        called = f"{charts.ANSWERS[name]}: `{found[0]['flags']}`".removesuffix(": ``")
        seeds = ", ".join(map(str, right))
        rows.append((called, seeds, f"{statistics.mean(right):.0f}", f"{took:.0f}"))
    return table(*rows)


def drafts_table(found: dict) -> str:
    """Drafts of beyond/speculative.py: what a pass gives and takes, in Markdown."""
    head = ("models", "drafts", "tokens a pass", "ms to draft", "ms of the model", "ms of the rest")
    rows = [(*head, "characters a second", "times as fast")]
    keys = ("drafts", "tokens_per_pass", "draw", "forward", "rest", "chars_per_second", "times")
    for models in ("1", "4"):
        for row in found[models]:
            rows.append((models, *(row[key] for key in keys)))
    return table(*rows)


def reading_table(runs: list[dict], ways: dict[str, str]) -> str:
    """Each way to read the validation split, with the losses of names that are new."""
    head = ("while it reads", "val loss, seed by seed", "mean", "new names, first", "later")
    rows = [(*head, "seconds")]
    for way, called in ways.items():
        found = [one[way] for one in runs]
        losses = [one["val_loss"] for one in found]
        cells = [called, ", ".join(f"{loss:.3f}" for loss in losses)]
        cells.append(f"{statistics.mean(losses):.3f}")
        for kind in ("first", "later"):
            cells.append(f"{statistics.mean(one['names'][kind] for one in found):.2f}")
        rows.append((*cells, f"{statistics.median(one['seconds'] for one in found):.0f}"))
    return table(*rows)


def put_in(path: Path, parts: dict[str, str]) -> str:
    """The text of a file with parts between their markers, which are comments of Markdown."""
    text = path.read_text(encoding="utf-8")
    for name, part in parts.items():
        start = f"<!-- {name}: written by docs/source/build.py -->\n"
        end = f"\n<!-- end of {name} -->"
        before, rest = text.split(start)
        text = before + start + part + end + rest.split(end)[1]
    return text
