"""The second ladder, from docs/time.json and docs/peers.json: table, sentence and picture."""

import json
import statistics
import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from measure_time import GOAL, SAME, SEEDS, at_loss, at_steps, recipe_seconds, scheduled

DOCS = Path(__file__).resolve().parent
TIME = json.loads((DOCS / "time.json").read_text(encoding="utf-8"))
PEERS = json.loads((DOCS / "peers.json").read_text(encoding="utf-8"))
NANOGPT, VIDEO = "nanoGPT, its recipe for CPUs", "the video's code, as step 7"


def peer_rows() -> list[dict]:
    """How long the peers take to the goal, and where they are at the end of the recipe's time."""
    rows = []
    for name, label in (("nanogpt", NANOGPT), ("video", VIDEO)):
        ms = statistics.median(PEERS["ms"][name])
        curve = [[steps, loss] for steps, _, loss in PEERS[name]["curve"]]
        steps = at_loss(curve, GOAL)
        fits = min(curve[-1][0], 1000 * recipe_seconds(PEERS) / ms)
        row = {
            "label": label,
            "ms": ms,
            "steps": steps and round(steps),
            "losses": [at_steps(curve, fits)],
        }
        rows.append(row | {"seconds": steps and steps * ms / 1000, "bfloat16": None})
    return rows


def rows(steps: list[dict]) -> list[dict]:
    """A row for each step of the second ladder, below those of the peers."""
    by_key = {(row["step"], row["precision"]): row for row in TIME["steps"]}
    found = peer_rows()
    for step in steps:
        if (step["name"], "float32") not in by_key:
            continue
        row = by_key[step["name"], "float32"]
        fast = by_key.get((step["name"], "bfloat16"), {})
        found.append(
            {
                "label": f"{step['number']} {step['title']}",
                "step": step,
                "ms": row["ms"],
                "steps": row["steps_to_goal"],
                "seconds": row["seconds_to_goal"],
                "losses": row["losses_in_time"],
                "bfloat16": fast.get("seconds_to_goal"),
                "as": SAME.get((step["name"], "float32")),
            }
        )
    return found


def spread(losses: list[float]) -> str:
    """The mean of losses, with the lowest and the highest."""
    if not losses:
        return ""
    if len(losses) == 1:
        return f"{losses[0]:.3f}"
    return f"{statistics.mean(losses):.3f} ({min(losses):.3f} to {max(losses):.3f})"


def cells(row: dict) -> list[str]:
    """What a table says of a row, behind its name."""
    recipe = recipe_seconds(PEERS)
    seconds = row["seconds"]
    share = f"{seconds:.0f} s, {seconds / recipe:.2f} of nanoGPT's" if seconds else "not reached"
    if row["label"] == NANOGPT:
        share = f"{recipe:.0f} s"
    fast = f"{row['bfloat16']:.0f} s" if row["bfloat16"] else ""
    steps = f"{row['steps']:,}" if row["steps"] else ""
    return [f"{row['ms']:.0f} ms", steps, share, spread(row["losses"]), fast]


HEAD = ["", "one step", f"steps to {GOAL}", f"seconds to {GOAL}", "val loss in nanoGPT's time"]
HEAD += [f"with bfloat16, seconds to {GOAL}"]


def markdown(steps: list[dict]) -> str:
    """The table and how it was measured, for the README."""
    lines = ["| " + " | ".join(HEAD) + " |", "| --- " * len(HEAD) + "|"]
    for row in rows(steps):
        step = row.get("step")
        name = f"[{step['number']} {step['title']}]({step['file']})" if step else row["label"]
        lines.append("| " + " | ".join([name, *cells(row)]) + " |")
    return "\n".join([*lines, "", textwrap.fill(measured(), 100)])


def measured() -> str:
    """How the table came about."""
    days = sorted({run["date"] for run in TIME["runs"]} | {PEERS["date"]})
    said = " to ".join(dict.fromkeys((days[0], days[-1])))
    commits = ", ".join(f"{PEERS[name]['commit'][:7]}" for name in ("nanogpt", "video"))
    return (
        f"Measured on {said} at the laptop size, in float32 but for the last column. Losses are "
        f"means of {len(SEEDS)} seeds over the whole validation split, in brackets the lowest and "
        "the highest; those of nanoGPT and of the video's code are of one run. "
        "Seconds are of training alone: optimiser steps times the milliseconds of one, the median "
        f"of {len(PEERS['ms']['nanogpt'])} turns that everybody took one after the other. Of a "
        "step with a schedule, 11 and later, each length is a run of its own, whose learning rate "
        "ends at zero; its loss in nanoGPT's time is that of the longest run that was made and "
        "fits in it. Steps 9 and 10 compute in float32 what step 8 computes, to the bit, and "
        "take its losses. Settings were chosen on the last tenth of the training split, so the "
        f"validation loss is a measurement. The peers' commits: {commits} (nanoGPT, "
        "ng-video-lecture)."
    )


def figure(steps: list[dict], ink: str, accent: str, muted: str) -> Figure:
    """Val loss over training seconds: curves of constant rates, and the ends of runs with none."""
    figure, (bars, curves) = plt.subplots(
        2, 1, figsize=(5.6, 6.4), layout="constrained", height_ratios=(1, 1.1)
    )
    table = rows(steps)
    for y, row in enumerate(reversed(table)):
        seconds = recipe_seconds(PEERS) if row["label"] == NANOGPT else row["seconds"]
        colour = accent if row is table[-1] else ink if row.get("step") else muted
        if seconds:
            bars.barh(y, seconds, color=colour, height=0.6)
            bars.annotate(
                f"{seconds:.0f} s", (seconds, y), (4, 0), textcoords="offset points",
                va="center", fontsize=8,
            )  # fmt: skip
    bars.set_yticks(range(len(table)), [row["label"] for row in reversed(table)], fontsize=8)
    bars.set_xlabel(f"training seconds to val loss {GOAL}, float32", fontsize=8)
    bars.tick_params(axis="x", labelsize=8)

    ends = []
    for name, label in (("nanogpt", "nanoGPT"), ("video", "video")):
        ms = statistics.median(PEERS["ms"][name])
        points = [(steps_taken * ms / 1000, loss) for steps_taken, _, loss in PEERS[name]["curve"]]
        curves.plot(*zip(*points, strict=True), color=muted, linewidth=1)
        ends.append((*points[-1], label, muted))
    for row in table[2:]:
        step, colour = row["step"], accent if row is table[-1] else ink
        name = step["name"]
        if row["as"]:
            continue
        runs = [r for r in TIME["runs"] if (r["step"], r["precision"]) == (name, "float32")]
        if scheduled(name):
            lengths = sorted({run["steps"] for run in runs})
            mean = [
                (n, statistics.mean(r["curve"][-1][1] for r in runs if r["steps"] == n))
                for n in lengths
            ]
            style = {"marker": "o", "markersize": 3, "linewidth": 0.8, "linestyle": "--"}
        else:
            points = zip(*(run["curve"] for run in runs), strict=True)
            mean = [(at[0][0], statistics.mean(loss for _, loss in at)) for at in points]
            style = {"linewidth": 1}
        points = [(n * row["ms"] / 1000, loss) for n, loss in mean]
        curves.plot(*zip(*points, strict=True), color=colour, **style)
        ends.append((*points[-1], str(step["number"]), colour))
    for x, y, label, colour in ends:
        curves.annotate(
            label, (x, y), (4, -3), textcoords="offset points", fontsize=8, color=colour
        )
    curves.axhline(GOAL, color=muted, linewidth=0.5)
    curves.set(ylim=(min(end[1] for end in ends) - 0.05, 2.4), xlim=(0, None))
    curves.set_xlabel("training seconds, float32", fontsize=8)
    curves.set_ylabel("val loss", fontsize=8)
    curves.tick_params(labelsize=8)
    return figure


def page(steps: list[dict], svg: str) -> dict:
    """What the page shows."""
    table = [row | {"cells": cells(row)} for row in rows(steps)]
    return {"goal": GOAL, "svg": svg, "head": HEAD, "rows": table, "measured": measured()}
