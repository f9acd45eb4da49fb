"""The pictures of the pages that do not answer to the reader, drawn by matplotlib as SVG.

Colours are those of page.css in light, and finish() puts the names of its variables in their place,
so that a picture follows the page into the dark. Text stays text. The same figures give the same
bytes: what a processor may round in another way is rounded here first.
"""

import html
import io
import itertools
import math
import re
import statistics

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Rectangle

INK, SOFT, BAR, RULE, PAPER, LOOK = "#1c1d20", "#5a5d65", "#b9bcc3", "#e3e0da", "#fdfcfa", "#2563c4"
VARIABLES = {
    INK: "var(--ink)", SOFT: "var(--soft)", BAR: "var(--bar)", RULE: "var(--rule)",
    PAPER: "var(--paper)", LOOK: "rgb(var(--look))",
}  # fmt: skip
ANSWERS = {  # what the picture calls the runs of measure/reward.py
    "practice": "practice with a checker",
    "imitate": "right answers imitated",
    "supervised": "more steps on the solved sums",
    "lenient": "only the last digit checked",
    "longer": "four digits rewarded",
    "divided": "four digits rewarded, divided by the spread",
}
matplotlib.rcdefaults()  # a reader's own matplotlibrc has no say
matplotlib.rcParams |= {
    "svg.fonttype": "none", "text.parse_math": False, "font.size": 13, "text.color": INK,
    "lines.linewidth": 2, "lines.solid_capstyle": "round",
}  # fmt: skip


def paper(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure whose units are those of its SVG, with y downwards."""
    figure = Figure(figsize=(width / 72, height / 72))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    return figure, axes


def plot(
    figure: Figure, left: float, top: float, width: float, height: float, size: float = 13
) -> Axes:
    """Axes in a part of a figure, measured as in paper(): no frame, labels without ticks."""
    across, down = figure.get_size_inches() * 72
    box = (left / across, 1 - (top + height) / down, width / across, height / down)
    axes = figure.add_axes(box)
    axes.spines[:].set_visible(False)
    axes.patch.set_visible(False)
    axes.tick_params(which="both", length=0, labelcolor=SOFT, labelsize=size)
    axes.grid(axis="y", color=RULE, linewidth=1)
    axes.set_axisbelow(True)
    return axes


def finish(figure: Figure, name: str, alone: bool = False, number: int = 0) -> str:
    """The figure as SVG for a page, or as a file by itself on white paper."""
    # The ids of two pictures on a page must differ.
    matplotlib.rcParams["svg.hashsalt"] = f"{name} {number}"
    file = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    body = plain(file.getvalue())
    across, down = figure.get_size_inches() * 72
    head = f'<svg viewBox="0 0 {across:.0f} {down:.0f}"'
    if alone:
        body = body.replace("var(--mono)", "monospace")
        head += ' xmlns="http://www.w3.org/2000/svg" font-family="sans-serif"'
        return f'{head}>\n<rect width="100%" height="100%" fill="#ffffff"/>\n{body}\n'
    for colour, variable in VARIABLES.items():
        body = body.replace(colour, variable)
    return f'{head} class="{name}">\n{body}'


def plain(text: str) -> str:
    """What matplotlib wrote, without what a page does not need; about half is left."""
    text = text[text.index(">", text.index("<svg")) + 1 :]
    # A style for all elements would be one for all of the page.
    unwanted = r"<!--.*?-->|<metadata>.*?</metadata>|<defs>\s*<style.*?</style>\s*</defs>"
    text = re.sub(unwanted, "", text, flags=re.S)
    text = re.sub(r'<g id="(sample)">', r'<g class="\1">', text)
    used = set(re.findall(r'(?:url\(|href=")#([^")]+)', text))
    shorter = {  # inside of tags alone: the text of a picture stays as it is
        r"\s+": " ",
        r' transform="rotate\(-0 [^"]*"|xlink:(?=href)': "",
        "text-anchor: start; |stroke-linecap: round": "",
        r"font-family: 'DejaVu Sans Mono'[^;\"]*": "font-family: var(--mono)",
        r"font-family: 'DejaVu Sans'[^;\"]*; ": "",
        r'(?: |; )*"(?=[ />])': '"',
        r' id="([^"]*)"': lambda found: found[0] if found[1] in used else "",
        r"-?\d+\.\d+": lambda number: f"{float(number[0]):.1f}",
    }
    tags = re.split(r"(<[^>]*>)", text)
    for old, new in shorter.items():
        tags[1::2] = [re.sub(old, new, tag) for tag in tags[1::2]]
    text = "".join(tag for tag in tags if tag.strip())
    text = re.sub(r'<path d="[^"]*" style="fill: none"/>|<g/>', "", text)  # frames, unseen
    before = ""
    while before != text:
        before, text = text, re.sub(r"<g>((?:(?!</?g\b).)*?)</g>", r"\1", text, flags=re.S)
    return text.replace("><", ">\n<").strip()


def apart(heights: list[float], least: float) -> list[float]:
    """Heights moved as little as it takes for any two to be that far from each other."""
    order = sorted(range(len(heights)), key=heights.__getitem__)
    groups: list[tuple[float, list[int]]] = []  # labels that touch: their middle, and which
    for i in order:
        middle, group = heights[i], [i]
        while groups and middle - groups[-1][0] < least * (len(group) + len(groups[-1][1])) / 2:
            group = groups.pop()[1] + group
            middle = sum(heights[j] for j in group) / len(group)
        groups.append((middle, group))
    moved = list(heights)
    for middle, group in groups:
        for place, i in enumerate(group):
            moved[i] = middle + (place - (len(group) - 1) / 2) * least
    return moved


# --- Losses ---


def ladder(steps: list[dict], alone: bool = False) -> str:
    """A row for each step: its name, its val loss, and a line that it writes; a row is a link."""
    losses = [step["val_loss"] for step in steps]
    low, high, row = min(losses) - 0.05, max(losses) + 0.05, 42
    height = 42 + row * len(steps)
    figure, axes = paper(900, height)
    axes.text(440, 24, "val loss", color=SOFT, size=15)
    axes.text(540, 24, "a line that it writes", color=SOFT, size=15)
    dots = [(200 + 210 * (x - low) / (high - low), 56 + row * i) for i, x in enumerate(losses)]
    for (x, y), (x2, y2) in itertools.pairwise(dots):
        axes.plot([x, x2], [y, y2], color=INK if x2 > x else BAR)  # where the loss goes up
    links = []
    for step, (x, y) in zip(steps, dots, strict=True):
        size = f" ({step['settings']['size']})" if "size" in step["settings"] else ""
        text = step["evaluations"][-1][3]
        sample = max(text.split("\n")[:-1] or [text], key=len)  # the last line is cut off
        sample = sample if len(sample) <= 44 else sample[:43] + "…"
        axes.plot(x, y, "o", color=INK, markersize=10)
        axes.text(8, y + 5, f"{step['number']} {step['title']}{size}", size=15)
        axes.text(440, y + 5, f"{step['val_loss']:.2f}", size=15)
        axes.text(540, y + 5, sample, family="monospace", gid="sample")
        label = f"step {step['number']}, {step['title']}: val loss {step['val_loss']:.2f}"
        links.append(
            f'<a href="#step-{step["number"]}" aria-label="{html.escape(label)}">'
            f'<rect class="hit" x="0" y="{y - 20}" width="900" height="40"/></a>\n'
        )
    picture = finish(figure, "ladder", alone)
    return picture if alone else picture.replace("</svg>", "".join(links) + "</svg>")


def curves(steps: list[dict]) -> str:
    """The val loss on the way, of the last of these steps over those before it."""
    last = max(step["evaluations"][-1][0] for step in steps)
    bottom = min(1.7, *(step["val_loss"] - 0.1 for step in steps))
    figure = Figure(figsize=(330 / 72, 190 / 72))
    axes = plot(figure, 32, 8, 270, 144, size=11)
    axes.set(xlim=(0, last), ylim=(bottom, 3), xticks=range(0, last + 1, 500 * (1 + last // 3001)))
    axes.set_yticks([tenth / 10 for tenth in range(12, 31, 2) if tenth / 10 >= bottom])
    axes.set_xlabel("optimiser steps", color=SOFT, size=11)
    ends: dict[int, list[tuple[float, str, str]]] = {}  # the labels, by where their curves end
    for step in steps:
        rows = zip(*(run["curve"] for run in step["runs"]), strict=True)
        means = [(row[0][0], statistics.mean(val for _, _, val in row)) for row in rows]
        now = step is steps[-1]
        axes.plot(*zip(*means, strict=True), color=INK if now else BAR, linewidth=2 if now else 1)
        label = (means[-1][1], str(step["number"]), "bold" if now else "normal")
        ends.setdefault(means[-1][0], []).append(label)
    for end, labels in ends.items():
        heights = apart([height for height, _, _ in labels], 12 * (3 - bottom) / 144)
        for (_, number, weight), height in zip(labels, heights, strict=True):
            kind = {"color": INK if weight == "bold" else SOFT, "weight": weight, "size": 11}
            axes.annotate(number, (end, height), (4, -4), textcoords="offset points", **kind)
    return finish(figure, "curves", number=steps[-1]["number"])


OTHERS = ("the video's code", "nanoGPT's recipe", "nanoGPT, tuned, our tokens")


def seconds_figure(found: dict, alone: bool = False) -> str:
    """Val loss against seconds of training on the machine that raced last."""
    ms = {name: statistics.median(times) for name, times in found["times"][0]["ms"].items()}
    who = {"our lessons": []} | {name: [] for name in OTHERS}
    for name, rows in found["losses"].items():
        row = "our lessons" if name.startswith("lesson") else name
        if name in ms and row in who:
            points = [
                (int(n) * ms[name] / 1000, statistics.mean(seeds)) for n, seeds in rows.items()
            ]
            who[row] = sorted(who[row] + points)
    # Of our lessons, those that no other run beats in a shorter time.
    lows = itertools.accumulate((loss for _, loss in who["our lessons"]), min)
    who["our lessons"] = [p for p, low in zip(who["our lessons"], lows, strict=True) if p[1] == low]
    ends = sorted(seconds for points in who.values() for seconds, _ in points)
    low = min(loss for points in who.values() for _, loss in points) - 0.05
    figure = Figure(figsize=(400 / 72, 330 / 72))
    axes = plot(figure, 32, 30, 344, 250)
    round_numbers = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
    right = next(n for n in round_numbers if n >= ends[-1])
    axes.set(xscale="log", xlim=(ends[0] / 1.2, right), ylim=(low, 2))
    axes.set_yticks([tenth / 10 for tenth in range(math.ceil(10 * low), 21)])
    shown = [n for n in round_numbers if ends[0] / 1.2 <= n <= right]
    axes.set_xticks(shown, map(str, shown))
    axes.minorticks_off()
    axes.tick_params(labelsize=13)
    axes.set_xlabel("seconds", color=SOFT)
    axes.set_title("val loss", loc="left", x=-0.09, color=SOFT, size=13, pad=12)
    for name, points in who.items():
        colour = SOFT if name in OTHERS else INK
        axes.plot(*zip(*points, strict=True), "o-", color=colour, markersize=7, clip_on=False)
        # Beside the point where a line begins, and over what comes after it.
        kind = {"textcoords": "offset points", "color": colour, "va": "bottom"}
        axes.annotate(name.replace("tuned, ", "tuned,\n"), points[0], (8, -3), **kind)
    return finish(figure, "race", alone)


def pieces(before: dict, found: dict) -> str:
    """The val loss as the pieces of step 6 come one after the other, with that of step 5 first."""
    rows = {"step 5": before} | found
    low = min(row["lowest"] for row in rows.values())
    high = max(row["highest"] for row in rows.values())
    figure, axes = paper(390, 46 * len(rows) + 6)

    def x(loss: float) -> float:
        return 20 + 270 * (loss - low) / (high - low)

    last = None
    for i, (name, row) in enumerate(rows.items()):
        y, loss = 46 * i + 36, row["val_loss"]
        axes.text(0, y - 18, name, color=SOFT)
        axes.plot([0, 300], [y, y], color=RULE, linewidth=1)
        axes.plot([x(row["lowest"]), x(row["highest"])], [y, y], color=BAR, linewidth=5)
        axes.plot(x(loss), y, "o", color=INK, markersize=9)
        axes.text(310, y + 5, f"{loss:.2f}", weight="bold")
        if last:
            change = round(loss, 2) - round(last, 2)
            axes.text(348, y + 5, f"{change:+.2f}".replace("-", "−"), color=SOFT)
        last = loss
    return finish(figure, "pieces")


def right_answers(runs: dict[str, list[dict]]) -> str:
    """Right answers against seconds for the runs of beyond/reward.py, a line for each seed."""
    figure = Figure(figsize=(400 / 72, 360 / 72))
    axes = plot(figure, 40, 108, 340, 206)
    shown = list(ANSWERS)[:4]  # the others are of another model
    last = max(one["rows"][-1][0] for name in shown for one in runs[name])
    axes.set(xlim=(0, last), ylim=(0, 1000), yticks=range(0, 1001, 250))
    axes.set_xlabel("seconds of one core", color=SOFT)
    axes.set_title("right answers of 1,000", loc="left", x=-0.11, color=SOFT, size=13, pad=12)
    key = {}
    for name in shown:
        for one in runs[name]:
            key[ANSWERS[name]] = axes.plot(
                *zip(*one["rows"], strict=True), linewidth=1.5,
                color={"practice": INK, "imitate": LOOK}.get(name, SOFT),
                linestyle={"supervised": "--", "lenient": ":"}.get(name, "-"),
            )[0]  # fmt: skip
    labelled(figure, key)
    return finish(figure, "answers")


def labelled(figure: Figure, key: dict[str, Line2D]) -> None:
    """The names of lines over their picture, each beside a piece of its line."""
    across, down = figure.get_size_inches() * 72
    for i, (name, line) in enumerate(key.items()):
        x, y = [4 / across, 30 / across], 1 - (12 + 18 * i) / down
        kind = {"color": line.get_color(), "linestyle": line.get_linestyle()}
        figure.add_artist(Line2D(x, [y, y], linewidth=line.get_linewidth(), **kind))
        figure.text(38 / across, y, name, va="center", color=line.get_color())


def drafts(found: dict) -> str:
    """How many tokens a pass gives, and how much faster a sample is, against the drafts."""
    figure = Figure(figsize=(400 / 72, 320 / 72))
    axes = plot(figure, 30, 72, 356, 206)
    rows = {members: found[members][1:] for members in ("4", "1")}  # the first is the lesson's
    x = [row["drafts"] for row in rows["1"]]
    times = {key: [float(row["times"].split()[0]) for row in rows[key]] for key in rows}
    tokens = [row["tokens_per_pass"] for row in rows["4"]]
    axes.set(xlim=(0, x[-1]), ylim=(0.8, math.ceil(5 * max(tokens)) / 5), xticks=x)
    axes.set_yticks([tenth / 10 for tenth in range(10, round(10 * axes.get_ylim()[1]) + 1, 5)])
    axes.set_xlabel("drafts for a pass", color=SOFT)
    lines = {
        "tokens a pass": (tokens, SOFT),
        "times as fast, four models": (times["4"], INK),
        "times as fast, one model": (times["1"], LOOK),
    }
    kind = {"markersize": 5, "clip_on": False}
    key = {name: axes.plot(x, y, "o-", color=c, **kind)[0] for name, (y, c) in lines.items()}
    labelled(figure, key)
    return finish(figure, "drafts")


def reading(runs: list[dict]) -> str:
    """The loss in each tenth of the text that is read, without learning and with it."""
    figure = Figure(figsize=(400 / 72, 310 / 72))
    axes = plot(figure, 40, 62, 346, 206)
    ways = {"without learning": ("no steps", SOFT), "learning": ("adam", INK)}
    key, every = {}, []
    for name, (way, colour) in ways.items():
        tenths = zip(*(one[way]["tenths"] for one in runs), strict=True)
        means = [statistics.mean(seeds) for seeds in tenths]
        kind = {"color": colour, "markersize": 5, "clip_on": False}
        key[name] = axes.plot(range(1, 11), means, "o-", **kind)[0]
        every += means
    axes.set(xlim=(1, 10), ylim=(min(every) - 0.03, max(every) + 0.03), xticks=range(1, 11))
    axes.set_xlabel("tenth of the unseen text", color=SOFT)
    labelled(figure, key)
    return finish(figure, "reading")


def gradient_bars(gradients: dict) -> str:
    """A bar for the gradient of each block of steps 5 and 6; the lines go over all seeds."""
    figure, axes = paper(390, 246)
    for row, (name, seeds) in enumerate(gradients.items()):
        top = 24 + 124 * row
        axes.text(0, top - 8, f"step {int(name[:2])}", weight="bold")
        for b, values in enumerate(zip(*seeds, strict=True)):
            middle, y = statistics.mean(values), top + 30 * b + 11
            low, high = 60 + 240 * min(values), 60 + 240 * max(values)
            axes.text(0, y + 4, f"block {b + 1}", color=SOFT)
            axes.barh(y, 240 * middle, 18, 60, color=BAR)
            if low != high:
                axes.plot([low, high], [y, y], color=INK, linewidth=1.5)
            axes.text(max(high, 60 + 240 * middle) + 8, y + 4, f"{middle:.2f}", color=SOFT)
    return finish(figure, "gradients")


# --- What a lesson does ---


def turns(places: dict[float, list[tuple[float, float]]]) -> str:
    """Pairs of features as arrows, at one position after the other; the key is a pair's speed."""
    figure = Figure(figsize=(400 / 72, 184 / 72))
    for i, (speed, points) in enumerate(places.items()):
        axes = figure.add_axes((i / 3, 0, 1 / 3, 136 / 184), xlim=(-1.3, 1.3), ylim=(-1.3, 1.3))
        axes.set_axis_off()
        axes.set_title(f"{speed:.2g} radian{'s' * (speed != 1)}\na position", size=13)
        axes.add_patch(Circle((0, 0), 1, facecolor="none", edgecolor=RULE))
        for t, (a, b) in enumerate(points):
            arrow = {"arrowstyle": "-|>", "shrinkA": 0, "shrinkB": 0, "linewidth": 1.5}
            arrow["color"] = INK if t else LOOK
            axes.annotate("", (a, b), (0, 0), arrowprops=arrow)
            if speed > 0.25 or t in (0, len(points) - 1):  # no number on top of another
                axes.text(1.17 * a, 1.17 * b, t, ha="center", va="center", color=SOFT)
    return finish(figure, "turns")


def singular_values(before: list[float], after: list[float]) -> str:
    """The singular values of a step, from the largest to the smallest, before and after."""
    figure = Figure(figsize=(400 / 72, 230 / 72))
    axes = plot(figure, 30, 12, 360, 174)
    axes.set(xlim=(1, len(before)), ylim=(0, 1.3), yticks=(0, 0.5, 1))
    axes.set_xticks([1, *range(24, len(before) + 1, 24)])
    axes.set_xlabel("singular values, from the largest to the smallest", color=SOFT)
    order = range(1, len(before) + 1)
    axes.plot(order, before, color=LOOK)
    axes.plot(order, after, color=INK)
    axes.text(0.3 * len(before), 1.18, "after five iterations")
    axes.text(0.3 * len(before), 0.28, "before, divided by the norm", color=LOOK)
    return finish(figure, "singular")


def growing(cuts: list[tuple[int, list[str]]]) -> str:
    """A piece of text cut into tokens, once for each count of joins that changes the cut."""
    wide = 18
    width = 150 + max(wide * len("".join(cut)) + 4 * len(cut) for _, cut in cuts)
    figure, axes = paper(width, 38 * len(cuts) + 6)
    for i, (joins, cut) in enumerate(cuts):
        y, left = 38 * i + 22, 140
        axes.text(0, y + 5, f"{joins} joins" if joins else "characters", color=SOFT)
        for token in cut:
            edge = LOOK if len(token) > 1 else BAR
            box = Rectangle((left, y - 13), wide * len(token), 26, facecolor="none", edgecolor=edge)
            axes.add_patch(box)
            middle = left + wide * len(token) / 2
            letters = token.replace(" ", "␣")
            axes.text(middle, y + 5, letters, family="monospace", size=15, ha="center")
            left += wide * len(token) + 4
    return finish(figure, "growing")
