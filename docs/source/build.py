"""Makes the pages, docs/index.html and docs/beyond.html, and parts of the READMEs.

    python docs/source/build.py
    python docs/source/build.py --all

The parts are the pictures docs/ladder.svg and docs/race.svg, and tables in measure/README.md and
beyond/README.md. What goes in: the scripts, the table of them (steps.toml), the figures in
measure/results/, the weights that export.py has packed, and the templates, styles and scripts in
this folder. The same input gives the same output, to the byte. Needs docs/requirements.txt, and
git, whose diffs it shows. With --all it first packs the trained models (export.py) and chooses the
line that the page opens with (choose.py), and at the end takes the picture (picture.py).
"""

import argparse
import ast
import html
import itertools
import json
import math
import re
import statistics
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from latex2mathml.converter import convert
from markupsafe import Markup, escape
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

SOURCE = Path(__file__).resolve().parent
DOCS = SOURCE.parent
ROOT = DOCS.parent
RESULTS = ROOT / "measure" / "results"
MADE_BY = {  # the results, and what in measure/ writes each; its --help says the rest
    "losses": "losses.py",
    "gradients": "gradients.py",
    "times": "throughput.py with --keep",
    "race": "race.py",
    "vocabulary": "vocabulary.py",
}
BESIDE = "07_full_gpt"  # its weights are a file beside the page
BESIDE_SHAPE = {"config": {"n_head": 3, "n_layer": 6}}
VIDEO = "https://www.youtube.com/watch?v=kCc8FmEb1nY"
IN_THE_VIDEO = {  # the val loss that is said or shown there
    "01_bigram": "2.5",
    "02_self_attention": "2.4",
    "03_multihead": "2.28",
    "04_feedforward": "2.24",
    "05_blocks": '"not very good"',
    "06_residual_layernorm": "2.06",
    "07_full_gpt": "1.48",
}


# --- Pictures ---


def ladder(steps: list[dict], linked: bool = False) -> str:
    """A row for each step: its name, its val loss, and a line that it writes. 900 units wide."""
    losses = [step["val_loss"] for step in steps]
    low, high, middle, row = min(losses) - 0.05, max(losses) + 0.05, [], 42
    for i, loss in enumerate(losses):
        middle.append((200 + 210 * (loss - low) / (high - low), 56 + row * i))
    parts = ['<text class="muted" x="440" y="24">val loss</text>']
    parts.append('<text class="muted" x="540" y="24">a line that it writes</text>')
    for (x, y), (x2, y2) in itertools.pairwise(middle):
        kind = "accent" if x2 > x else "muted"  # where the loss goes up
        parts.append(f'<line class="{kind}" x1="{x:.1f}" y1="{y}" x2="{x2:.1f}" y2="{y2}"/>')
    for step, (x, y) in zip(steps, middle, strict=True):
        size = f" ({step['settings']['size']})" if "size" in step["settings"] else ""
        text = step["evaluations"][-1][3]
        sample = max(text.split("\n")[:-1] or [text], key=len)  # the last line is cut off
        sample = sample if len(sample) <= 44 else sample[:43] + "…"
        if linked:
            label = f"step {step['number']}, {step['title']}: val loss {step['val_loss']:.2f}"
            parts.append(f'<a href="#step-{step["number"]}" aria-label="{label}">')
            parts.append(f'<rect class="hit" x="0" y="{y - 20}" width="900" height="40"/>')
        parts.append(f'<text x="8" y="{y + 5}">{step["number"]} {step["short"]}{size}</text>')
        parts.append(f'<circle cx="{x:.1f}" cy="{y}" r="5"/>')
        parts.append(f'<text x="440" y="{y + 5}">{step["val_loss"]:.2f}</text>')
        parts.append(f'<text class="sample" x="540" y="{y + 5}">{html.escape(sample)}</text>')
        parts += ["</a>"] * linked
    height = 56 + row * len(steps) - 14
    return f'<svg viewBox="0 0 900 {height}" class="ladder">\n' + "\n".join(parts) + "\n</svg>"


def seconds_figure(found: dict) -> str:
    """Val loss against seconds of training on the machine that raced last, 900 units wide."""
    ms = {name: statistics.median(times) for name, times in found["times"][0]["ms"].items()}
    who = {
        name: [(int(n) * ms[name] / 1000, statistics.mean(seeds)) for n, seeds in rows.items()]
        for name, rows in found["losses"].items()
        if name in ms
    }
    ends = sorted(seconds for points in who.values() for seconds, _ in points)
    low = min(loss for points in who.values() for _, loss in points) - 0.05

    def x(seconds: float) -> float:
        return 60 + 560 * math.log(seconds / ends[0] * 1.2) / math.log(ends[-1] / ends[0] * 1.2)

    def y(loss: float) -> float:
        return 30 + 330 * (2 - loss) / (2 - low)

    parts = ['<text class="muted" x="8" y="18">val loss</text>']
    parts.append('<text class="muted" x="340" y="405" text-anchor="middle">seconds</text>')
    for tenth in range(math.ceil(10 * low), 21):
        at = f"{y(tenth / 10):.1f}"
        parts.append(f'<line class="grid" x1="60" y1="{at}" x2="620" y2="{at}"/>')
        parts.append(f'<text class="muted" x="26" y="{at}" dy="5">{tenth / 10}</text>')
    for seconds in (10, 20, 50, 100, 200, 500):
        if ends[0] / 1.2 <= seconds <= ends[-1]:
            at = f"{x(seconds):.1f}"
            parts.append(
                f'<text class="muted" x="{at}" y="382" text-anchor="middle">{seconds}</text>'
            )
    labels = apart([y(points[-1][1]) for points in who.values()], 19)
    for (name, points), height in zip(who.items(), labels, strict=True):
        kind = "" if name.startswith("lesson") else "muted"
        places = [(f"{x(seconds):.1f}", f"{y(loss):.1f}") for seconds, loss in points]
        line = " ".join(map(",".join, places))
        parts.append(f'<polyline class="{kind}" points="{line}"/>')
        parts += [f'<circle class="{kind}" cx="{cx}" cy="{cy}" r="5"/>' for cx, cy in places]
        end = f'<line class="grid" x1="{places[-1][0]}" y1="{places[-1][1]}" x2="636"'
        parts.append(f'{end} y2="{height:.1f}"/>')
        parts.append(
            f'<text class="{kind}" x="640" y="{height + 5:.1f}">{html.escape(name)}</text>'
        )
    return '<svg viewBox="0 0 900 414">\n' + "\n".join(parts) + "\n</svg>"


def alone(picture: str) -> str:
    """A picture as a file by itself, with a style of its own, on white paper."""
    style = (
        "text { font: 15px sans-serif; fill: #1f2328 } .muted { fill: #57606a } "
        ".sample { font: 13px monospace; white-space: pre } circle { fill: #1f2328 } "
        "line { stroke: #57606a; stroke-width: 2 } .accent { stroke: #b3400a } "
        ".grid { stroke: #d0d7de; stroke-width: 1 } circle.muted { fill: #8c959f } "
        "polyline { fill: none; stroke: #1f2328; stroke-width: 2 }"
    )
    head, rest = picture.split("\n", 1)
    head = head.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ')
    paper = '<rect width="100%" height="100%" fill="#ffffff"/>'
    return f"{head}\n<style>{style}</style>\n{paper}\n{rest}\n"


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


def curves(steps: list[dict]) -> str:
    """The val loss on the way, of the last of these steps over those before it."""
    last = max(step["evaluations"][-1][0] for step in steps)
    bottom = min(1.7, *(step["val_loss"] - 0.1 for step in steps))

    def x(at: float) -> float:
        return 32 + 270 * at / last

    def y(loss: float) -> float:
        return 8 + 136 * (3 - loss) / (3 - bottom)

    parts, ends = [], []
    for tenth in range(16, 31, 2):
        if tenth / 10 >= bottom:
            at = f"{y(tenth / 10):.1f}"
            parts.append(f'<line x1="32" y1="{at}" x2="310" y2="{at}"/>')
            parts.append(f'<text x="26" y="{at}" dy="3" text-anchor="end">{tenth / 10}</text>')
    for at in range(0, last + 1, 500 if last <= 3000 else 1000):
        parts.append(f'<text x="{x(at):.1f}" y="158" text-anchor="middle">{at}</text>')
    parts.append('<text x="167" y="174" text-anchor="middle">optimiser steps</text>')
    parts.append('<svg x="0" y="8" width="330" height="136" viewBox="0 8 330 136">')  # cuts off
    for step in steps:
        runs = [run["curve"] for run in step["runs"]]
        means = [
            (rows[0][0], sum(val for _, _, val in rows) / len(rows))
            for rows in zip(*runs, strict=True)
        ]
        kind = "now" if step is steps[-1] else "before"
        points = " ".join(f"{x(at):.1f},{y(mean):.1f}" for at, mean in means)
        parts.append(f'<polyline class="{kind}" points="{points}"/>')
        ends.append((x(means[-1][0]), y(means[-1][1]), step["number"], kind))
    parts.append("</svg>")
    for end in dict.fromkeys(end[0] for end in ends):
        here = [one for one in ends if one[0] == end]
        moved = apart([one[1] for one in here], 12)
        for (_, _, number, kind), height in zip(here, moved, strict=True):
            parts.append(
                f'<text class="{kind}" x="{end + 4:.1f}" y="{height + 3:.1f}">{number}</text>'
            )
    return '<svg viewBox="0 0 330 180" class="curves">\n' + "\n".join(parts) + "\n</svg>"


def gradient_bars(gradients: dict) -> str:
    """A bar for the gradient of each block of steps 5 and 6; the lines go over all seeds."""
    parts = []
    for row, (name, seeds) in enumerate(gradients.items()):
        top = 24 + 124 * row
        parts.append(f'<text class="title" x="0" y="{top - 8}">step {int(name[:2])}</text>')
        for b, values in enumerate(zip(*seeds, strict=True)):
            middle, y = sum(values) / len(values), top + 30 * b
            parts.append(f'<text x="0" y="{y + 15}">block {b + 1}</text>')
            parts.append(f'<rect x="60" y="{y + 2}" width="{240 * middle:.1f}" height="18"/>')
            low, high = 60 + 240 * min(values), 60 + 240 * max(values)
            if low != high:
                parts.append(f'<line x1="{low:.1f}" y1="{y + 11}" x2="{high:.1f}" y2="{y + 11}"/>')
            at = max(high, 60 + 240 * middle) + 8
            parts.append(f'<text x="{at:.1f}" y="{y + 15}">{middle:.2f}</text>')
    return '<svg viewBox="0 0 390 246" class="gradients">\n' + "\n".join(parts) + "\n</svg>"


# --- Scripts and their diffs ---


def lines_of(file: str) -> list[str]:
    """The lines of a script as HTML."""
    source = (ROOT / file).read_text(encoding="utf-8")
    text = highlight(source, PythonLexer(), HtmlFormatter(nowrap=True))
    css = set(re.findall(r"\.(\w+)", (SOURCE / "page.css").read_text(encoding="utf-8")))
    text = re.sub(
        r'<span class="(\w+)">([^<]*)</span>',
        lambda token: token[0] if token[1] in css else token[2],  # most tokens have no colour
        text,
    )
    return text.rstrip("\n").split("\n")


def hunks_between(old: str, new: str) -> list[list[tuple[str, int, str]]]:
    """What git shows between two scripts: hunks of (" ", "+" or "-", line number, HTML)."""
    command = ["git", "-c", "diff.suppressBlankEmpty=false", "-c", "diff.interHunkContext=0"]
    command += ["diff", "--no-index", "--no-color", "--no-ext-diff", "--unified=1"]
    command += ["--diff-algorithm=myers", "--indent-heuristic", old, new]
    try:
        printed = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8")
    except FileNotFoundError:
        sys.exit("git is not installed; the page shows its diffs")
    if printed.returncode > 1:  # 1: the files differ
        sys.exit(printed.stderr)
    before, after = lines_of(old), lines_of(new)
    hunks, a, b = [], 0, 0
    for line in printed.stdout.splitlines():
        if start := re.match(r"@@ -(\d+)(?:,\d+)? \+(\d+)(?:,\d+)? @@", line):
            a, b = int(start[1]), int(start[2])
            hunks.append([])
        elif hunks and line[:1] == "-":
            hunks[-1].append(("-", a, before[a - 1]))
            a += 1
        elif hunks and line[:1] in ("+", " "):
            hunks[-1].append((line[0], b, after[b - 1]))
            a, b = a + (line[0] == " "), b + 1
    return hunks


FOLDED = {
    "docstring": "docstring", "imports": "imports", "Config": "settings", "SIZES": "settings",
    "main": "main", "parse_args": "command line", "estimate_loss": "estimate_loss",
    "train": "train", "__main__": "command line",
}  # fmt: skip


def parts_by_line(file: str) -> list[str]:
    """For each line of a script the name of what it belongs to: a class, a function, imports."""
    source = (ROOT / file).read_text(encoding="utf-8")
    names, done = [], 0
    for node in ast.parse(source).body:
        match node:
            case ast.Expr(ast.Constant()):
                name = "docstring"
            case ast.ClassDef(name) | ast.FunctionDef(name) | ast.Assign([ast.Name(name)]):
                pass
            case ast.AnnAssign(target=ast.Name(name)):
                pass
            case ast.If():
                name = "__main__"
            case _:
                name = "imports"
        names += [name] * (node.end_lineno - done)
        done = node.end_lineno
    return names


def fold(lines: list[tuple], new: list[str], old: list[str], kept: set[str]) -> list[dict]:
    """Lines of a diff or a script as runs: those that fold away, with what they are, and others."""
    runs: list[dict] = []
    for sign, n, text in lines:
        name = (old if sign == "-" else new)[n - 1]
        folded = name in FOLDED and name not in kept
        if not runs or runs[-1]["folded"] != folded:
            runs.append({"folded": folded, "lines": [], "names": {}})
        runs[-1]["lines"].append((sign, n, text))
        runs[-1]["names"][FOLDED.get(name, name)] = True
    return runs


def folded_diff(step: dict) -> dict:
    """The changes of the model, hunk by hunk, and those that fold away, with their count."""
    new, old = parts_by_line(step["file"]), parts_by_line(step["old"]["file"])
    kept = {new[n - 1] for n in [step["key_line"]] if n}
    if step["beyond"]:  # there the training is often what a lesson changes
        kept |= {"train", "estimate_loss", "main"}
    shown, folded, names = [], [], {}
    for hunk in step["hunks"]:
        for run in fold(hunk, new, old, kept):
            if all(sign == " " for sign, _, _ in run["lines"]):
                continue
            (folded if run["folded"] else shown).append(run["lines"])
            if run["folded"]:
                names |= run["names"]
    signs = [sign for run in folded for sign, _, _ in run]
    count = {"added": signs.count("+"), "removed": signs.count("-")}
    return {"shown": shown, "folded": folded, "names": ", ".join(names)} | count


def find_key(step: dict) -> int:
    """The number of the line that the table of the page points to."""
    source = (ROOT / step["file"]).read_text(encoding="utf-8").split("\n")
    found = [n for n, line in enumerate(source, 1) if line.strip().startswith(step["key"])]
    if step["hunks"]:
        found = [n for n in found if n in step["new_lines"]]
    if not found:
        sys.exit(f"{step['file']} has no new line {step['key']!r}: see steps.toml")
    return found[0]


# --- Words ---


def nested(picture: str) -> list[dict]:
    """An indented outline as boxes: their label, whether they are new, and the boxes inside."""
    root: list[dict] = []
    open_boxes = [(-1, root)]
    for line in picture.strip("\n").split("\n"):
        depth = len(line) - len(line.lstrip())
        label = line.strip()
        while open_boxes[-1][0] >= depth:
            open_boxes.pop()
        is_new = label.startswith("+ ")
        box = {"label": label.removeprefix("+ "), "new": is_new, "boxes": []}
        open_boxes[-1][1].append(box)
        open_boxes.append((depth, box["boxes"]))
    return root


def visible(text: str) -> str:
    """The text with its line breaks and spaces to be seen."""
    return text.replace("\n", "↵").replace(" ", "␣")


def shapes(text: str) -> Markup:
    """The text with each shape, as (B, T, C), set apart."""
    span = r'<span class="shape">\1</span>'
    return Markup(re.sub(r"(\([BTCVhd3/, ]*[BTCV][BTCVhd3/, ]*\))", span, str(escape(text))))


def seconds(moment: str) -> int:
    """Seconds of h:mm:ss."""
    hours, minutes, rest = map(int, moment.split(":"))
    return 3600 * hours + 60 * minutes + rest


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
    """The lessons with their val loss and the time of a step, in Markdown."""
    rows = ["| lesson | the idea | val loss | ms a step |", "| --- | --- | --- | --- |"]
    for step in steps:
        file, ms = Path(step["file"]).name, str(times["default"]["ms"][step["name"]])
        if without := times["float32"]["ms"].get(step["name"]):
            ms += f" ({without})"
        rows.append(f"| [{file}]({file}) | {step['cause']} | {step['val_loss']:.2f} | {ms} |")
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


def put_in(path: Path, parts: dict[str, str]) -> str:
    """The text of a file with parts between their markers, which are comments of Markdown."""
    text = path.read_text(encoding="utf-8")
    for name, part in parts.items():
        start = f"<!-- {name}: written by docs/source/build.py -->\n"
        end = f"\n<!-- end of {name} -->"
        before, rest = text.split(start)
        text = before + start + part + end + rest.split(end)[1]
    return text


TEXTS = ("problem", "reason", "idea", "do", "next")  # of steps.toml, which may hold figures


# --- The pages ---


def for_the_page(value: object) -> Markup:
    """The value as JSON that can stand in a script of the page."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c"))


def live(steps: list[dict], chosen: dict) -> dict:
    """What the race takes: the weights, the line it begins with, and what step 7 makes of it."""
    kept = json.loads((SOURCE / "weights.json").read_text(encoding="utf-8"))
    weights = {
        name: {key: value for key, value in entry.items() if key != "proof"}
        for name, entry in kept["steps"].items()
        if "int16" in entry
    }
    x, y = kept["window"]
    text = "".join(kept["chars"][token] for token in [*x, y[-1]])
    rows = [
        {"name": step["name"], "title": step["title"], "val_loss": round(step["val_loss"], 4)}
        for step in steps
    ]
    first = {key: chosen[key] for key in ("line", "losses", "top", "heads")}
    data = {"chars": kept["chars"], "beside": f"{BESIDE}.js", "steps": rows, "first": first}
    return {
        "made_from": {name: entry["made_from"] for name, entry in weights.items()},
        "window": {"chars": kept["chars"], "x": x, "y": y, "text": text},
        "line": chosen["line"],
        "next": chosen["next"],
        "means": chosen["means"],
        "heads": {
            name: {
                which: head_name(weights.get(name, BESIDE_SHAPE)["config"], found[which])
                for which in ("back", "spaces")
            }
            | {"one_back": found["heads"][found["back"]]["back"][1]}
            | {"on_spaces": found["heads"][found["spaces"]]["spaces"], "even": found["even"]}
            | {"number": found["back"] + 1}
            for name, found in chosen["heads"].items()
        },
        "data": for_the_page(data | {"weights": weights}),
    }


def training(chars: str) -> dict:
    """What the page learns from: the first 100,000 characters of our play, up to a whole speech."""
    text = (ROOT / "data" / "sample.txt").read_text(encoding="utf-8")[:100_000]
    text = text[: text.rindex("\n\n") + 1]
    return {"text": text, "data": for_the_page({"chars": chars, "text": text})}


def head_name(config: dict, i: int) -> str:
    """What a head is called, as the page calls it."""
    heads = config.get("n_head", 1)
    block = f"block {i // heads + 1}, " if "n_layer" in config else ""
    return f"{block}head {i % heads + 1}"


def read_results(names: list[str]) -> list[dict]:
    """What was measured, file by file; what was not measured ends the program."""
    found = []
    for name, command in MADE_BY.items():
        path = RESULTS / f"{name}.json"
        if not path.exists():
            sys.exit(f"{path} is missing: run python measure/{command}")
        found.append(json.loads(path.read_text(encoding="utf-8")))
    if missing := [name for name in names if name not in found[0]["steps"]]:
        sys.exit(f"not measured: run python measure/losses.py {' '.join(missing)}")
    return found


def read_steps(table: dict, results: dict, idea: Callable[[str], str]) -> list[dict]:
    """A dict for each script: its row of the table, its figures, and what a page shows of it."""
    steps: list[dict] = []
    for row, (name, entry) in enumerate(table.items(), 1):
        step = {"name": name, "measured": entry["kind"] in ("step", "lesson")} | entry
        if step["measured"]:
            step |= results["steps"][name] | {"number": row, "id": row, "called": f"step {row}"}
            step["heading"] = f"{row} {step['title']}"
        else:
            step |= {"id": name, "called": Path(step["file"]).name, "heading": step["title"]}
        steps.append(step)
        old = next((old for old in steps if old["name"] == step.get("extends")), None)
        moment = step.get("video")
        step |= {
            "old": old,
            "beyond": step["kind"] != "step",
            **{key: idea(step[key]) for key in TEXTS if key in step},
            "why": [(what, idea(text)) for what, text in step.get("why", {}).items()],
            "lines": lines_of(step["file"]),
            "hunks": hunks_between(old["file"], step["file"]) if old else [],
            "boxes": nested(step["picture"]) if "picture" in step else [],
            "mathml": convert(step["formula"], display="block") if "formula" in step else None,
            "url": f"{VIDEO}&t={seconds(moment)}s" if moment else None,
            "sources": list(step.get("sources", {}).items()),
            "in_the_video": IN_THE_VIDEO.get(name),
        }
        signs = [sign for hunk in step["hunks"] for sign, _, _ in hunk]
        step |= {"added": signs.count("+"), "removed": signs.count("-")}
        step["new_lines"] = {n for hunk in step["hunks"] for sign, n, _ in hunk if sign == "+"}
        step["key_line"] = find_key(step) if step["measured"] else None
        if step["measured"]:
            shown = [old, step] if step["beyond"] else steps  # a lesson beside the one before it
            step["curves"] = curves(shown)
            step["gain"] = round(step["val_loss"], 2) - round(old["val_loss"], 2) if old else None
        names = parts_by_line(step["file"])
        numbered = [(" ", n, text) for n, text in enumerate(step["lines"], 1)]
        step["folded"] = folded_diff(step) if old else {}
        if not old:  # step 1: its model, and all else folded
            runs = fold(numbered, names, [], set())
            shown = [run["lines"] for run in runs if not run["folded"]]
            step["folded"] = {"shown": shown, "folded": [], "names": ""}
    return steps


def build() -> dict[Path, str]:
    """Every file that comes from the scripts and the results, with its text."""
    table = tomllib.loads((SOURCE / "steps.toml").read_text(encoding="utf-8"))
    kinds = ("step", "lesson")
    results, gradients, times, raced, vocabulary = read_results(
        [n for n, row in table.items() if row["kind"] in kinds]
    )
    chosen = json.loads((SOURCE / "chosen.json").read_text(encoding="utf-8"))
    environment = Environment(
        loader=FileSystemLoader(SOURCE), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"visible": visible, "shapes": shapes}
    head = live([], chosen)["heads"]

    def idea(text: str) -> Markup:
        template = environment.from_string(text)
        return Markup(template.render(results=results, gradients=gradients, head=head).strip())

    steps = read_steps(table, results, idea)
    days = sorted({step["date"] for step in results["steps"].values()})
    by_kind = {
        kind: [step for step in steps if step["kind"] == kind]
        for kind in ("step", "lesson", "leaf", "exercise")
    }
    race = live(by_kind["step"], chosen)
    pages = {}
    for page, kind in (("index.html", "step"), ("beyond.html", "lesson")):
        learning = {step["name"]: step["evaluations"] for step in by_kind[kind]}
        tokens = {"chars": race["window"]["chars"], "merges": chosen["merges"]}
        data = {"learning": learning} | ({"tokens": tokens} if kind == "lesson" else {})
        pages[page] = environment.get_template("page.html.jinja").render(
            page=page,
            results=results,
            times=times,
            vocabulary=vocabulary,
            dates=" to ".join(dict.fromkeys((days[0], days[-1]))),
            steps=by_kind["step"],
            lessons=by_kind["lesson"],
            leaves=by_kind["leaf"],
            exercises=by_kind["exercise"],
            video=VIDEO,
            ladder=ladder(by_kind["step"], linked=True),
            gradients=gradient_bars(gradients),
            seeds=len(gradients["05_blocks"]),
            live=race,
            training=training(race["window"]["chars"]),
            chars=len(race["window"]["chars"]),
            merges=len(chosen["merges"]),
            data=for_the_page(data),
        )
    all_losses = losses(by_kind["step"] + by_kind["lesson"])
    tables = {
        "lessons": lessons_table(by_kind["lesson"], times),
        "vocabularies": vocabulary_table(vocabulary),
        "race": race_table(raced),
    }
    readme, beyond = ROOT / "measure" / "README.md", ROOT / "beyond" / "README.md"
    return {
        **{DOCS / page: text + "\n" for page, text in pages.items()},
        DOCS / "ladder.svg": alone(ladder(by_kind["step"])),
        DOCS / "race.svg": alone(seconds_figure(raced)),
        readme: put_in(readme, {"losses": all_losses}),
        beyond: put_in(beyond, tables),
    }


def main() -> None:
    """Write the pages, the pictures and the tables."""
    about, details = __doc__.split("\n", 1)
    parser = argparse.ArgumentParser(
        description=about, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--all", action="store_true", help="what comes before and after, too")
    everything = parser.parse_args().all
    for script in ("export", "choose") if everything else ():
        subprocess.run([sys.executable, SOURCE / f"{script}.py"], check=True)
    for path, text in build().items():
        path.write_text(text, encoding="utf-8", newline="\n")
        print(f"{path.relative_to(ROOT)}: {len(text.encode()):,} bytes")
    if everything:
        subprocess.run([sys.executable, SOURCE / "picture.py"], check=True)


if __name__ == "__main__":
    main()
