"""Makes the walkthrough, docs/index.html and docs/beyond.html, and the measured part of the README.

    python docs/build.py

What goes in: the scripts, docs/results.json, docs/weights.json, the sentences in docs/steps.toml,
the form of the pages in docs/page.html.jinja and docs/page.css, and their live parts in docs/live.*
and docs/model.js. The same input gives the same output, to the byte. Needs docs/requirements.txt,
and git, whose diffs it shows.
"""

import argparse
import io
import itertools
import json
import re
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import second
from attention import draw
from exercise_tables import fine_tuning, own_text, paragraph
from export import AS_BEFORE
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from latex2mathml.converter import convert
from markupsafe import Markup, escape
from matplotlib.figure import Figure
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

DOCS = Path(__file__).resolve().parent
STEP_TIME = (  # of benchmarks/scaling.py
    r"T(n) = t + 2\,\frac{n - 1}{n} \cdot \frac{\mathrm{bytes}}{\mathrm{bandwidth}}"
    r" + 2\,(n - 1) \cdot \mathrm{latency}, \quad \mathrm{efficiency} = \frac{t}{T(n)}"
)
ROOT = DOCS.parent
LINE = "ROMEO:\nThe king shall come to th"  # what the live parts read at first
BESIDE = "07_full_gpt"  # its weights are a file beside the page
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
# Colours that stand for the page's own, light or dark, and what they are in a file by itself.
INK, ACCENT, MUTED = "#010101", "#020202", "#030303"
ON_THE_PAGE = {INK: "var(--ink)", ACCENT: "var(--accent)", MUTED: "var(--muted)"}
ALONE = {INK: "#1f2328", ACCENT: "#b3400a", MUTED: "#57606a"}
mpl.rcdefaults()  # whatever a reader has set
mpl.rcParams |= {
    "svg.fonttype": "none",
    "svg.hashsalt": "gpt",
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor"), INK),
    **dict.fromkeys(("xtick.color", "ytick.color"), INK),
}


def hundredths(number: re.Match) -> str:
    """A number with at most two digits after the point: a picture needs no more."""
    return f"{float(number[0]):.2f}".rstrip("0").rstrip(".")


def svg(figure: Figure, name: str, colours: dict[str, str]) -> str:
    """The figure as an SVG element in those colours, its ids made unlike those of other figures."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    plt.close(figure)
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"\s*<!--.*?-->", "", text)
    ids: dict[str, str] = {}
    for found in re.findall(r'id="([^"]+)"', text):
        ids.setdefault(found, f"{name}-{len(ids)}")
    named = r'(id="|href="#|url\(#)([^")]+)'
    text = re.sub(named, lambda found: found[1] + ids.get(found[2], found[2]), text)
    text = re.sub(r"<[^>]+>", lambda tag: re.sub(r"\d+\.\d+", hundredths, tag[0]), text)
    text = re.sub(r"'DejaVu Sans[^;]*, (sans-serif|monospace)", r"\1", text)
    for colour, own in colours.items():
        text = text.replace(colour, own)
    return text.strip()


def ladder(steps: list[dict]) -> Figure:
    """The val loss that each step ends with, with its spread."""
    figure, ax = plt.subplots(figsize=(4.8, 3), layout="constrained")
    for x, (step, after) in enumerate(itertools.pairwise(steps), 1):
        a, b = step["val_loss"], after["val_loss"]
        ax.plot([x, x + 1], [a, b], color=ACCENT if b > a else MUTED, linewidth=2)
    for x, step in enumerate(steps, 1):
        ax.plot([x, x], [step["lowest"], step["highest"]], color=INK, linewidth=4)
        ax.plot(x, step["val_loss"], "o", color=INK, markersize=5)
        offset = {4: (0, -16), 6: (12, 3), 7: (13, 3)}.get(x, (0, 7))  # clear of the lines
        at = (x, step["val_loss"] if x == 4 else step["highest"])
        text = f"{step['val_loss']:.2f}"
        ax.annotate(text, at, offset, textcoords="offset points", ha="center", fontsize=9)
    names = [f"{x}\n" + step["short"].replace(" ", "\n") for x, step in enumerate(steps, 1)]
    names[-1] += f"\n({steps[-1]['size']})"
    ax.set_xticks(range(1, len(steps) + 1), names, fontsize=8)
    ax.tick_params(axis="y", labelsize=8)
    ax.set_ylabel("val loss (nats per character)", fontsize=8)
    ax.set(xlim=(0.6, 7.5), ylim=(steps[-1]["val_loss"] - 0.1, steps[0]["val_loss"] + 0.15))
    return figure


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


def curves(steps: list[dict]) -> Figure:
    """The val loss on the way, of the last of these steps over those before it."""
    figure, ax = plt.subplots(figsize=(4.6, 2.5), layout="constrained")
    ends = []
    for step in steps:
        runs = [run["curve"] for run in step["runs"]]
        at = [point[0] for point in runs[0]]
        mean = [sum(point[2] for point in points) / len(runs) for points in zip(*runs, strict=True)]
        colour, width = (ACCENT, 2) if step is steps[-1] else (MUTED, 0.8)
        ax.plot(at, mean, color=colour, linewidth=width)
        ends.append((at[-1], mean[-1], str(step["number"]), colour))
    bottom = min(step["val_loss"] for step in steps) - 0.1
    ax.set(ylim=(min(bottom, 1.7), 3), xlim=(0, 1.05 * max(at for at, *_ in ends)))
    ax.tick_params(labelsize=8)
    ax.set_xlabel("optimiser steps", fontsize=8)
    ax.set_ylabel("val loss", fontsize=8)
    figure.draw_without_rendering()  # now it is known how high the axes are
    to_points = 72 / figure.dpi
    for at in {end[0] for end in ends}:
        here = [end for end in ends if end[0] == at]
        heights = [ax.transData.transform(end[:2])[1] * to_points for end in here]
        for end, height, moved in zip(here, heights, apart(heights, 11.5), strict=True):
            offset = (4, moved - height - 3)
            style = {"textcoords": "offset points", "fontsize": 8, "color": end[3]}
            ax.annotate(end[2], end[:2], offset, **style)
    return figure


def scaling_curve(found: dict) -> Figure:
    """How many times as fast as one process several are: as measured, and as predicted."""
    figure, ax = plt.subplots(figsize=(4.8, 3), layout="constrained")
    machines = [n for n, _ in found["predicted"]]
    ax.plot(machines, machines, color=MUTED, linewidth=0.8, linestyle="--")
    ax.plot(*zip(*found["predicted"], strict=True), color=ACCENT, linewidth=2)
    one = found["measured"][0][1]
    for n, seconds in found["measured"]:
        ax.plot(n, n * one / seconds, "o", color=INK, markersize=5)
    ax.set_xscale("log", base=2)
    ax.set_yscale("log", base=2)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter("{x:.0f}")
        axis.set_ticks(machines)
    ax.tick_params(labelsize=8)
    ax.set_xlabel("processes", fontsize=8)
    ax.set_ylabel("times one", fontsize=8)
    return figure


def lines_of(file: str) -> list[str]:
    """The lines of a script as HTML."""
    source = (ROOT / file).read_text(encoding="utf-8")
    html = highlight(source, PythonLexer(), HtmlFormatter(nowrap=True))
    css = set(re.findall(r"\.(\w+)", (DOCS / "page.css").read_text(encoding="utf-8")))
    html = re.sub(
        r'<span class="(\w+)">([^<]*)</span>',
        lambda token: token[0] if token[1] in css else token[2],  # most tokens have no colour
        html,
    )
    return html.rstrip("\n").split("\n")


def changes(old: str, new: str) -> list[list[tuple[str, int, str]]]:
    """What git shows between two scripts: hunks of (" ", "+" or "-", line number, HTML)."""
    command = ["git", "-c", "diff.suppressBlankEmpty=false", "-c", "diff.interHunkContext=0"]
    command += ["diff", "--no-index", "--no-color", "--no-ext-diff", "--unified=3"]
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


def find_key(step: dict) -> int:
    """The number of the line that the table of the page points to."""
    source = (ROOT / step["file"]).read_text(encoding="utf-8").split("\n")
    found = [n for n, line in enumerate(source, 1) if line.strip().startswith(step["key"])]
    if step["hunks"]:
        added = {n for hunk in step["hunks"] for sign, n, _ in hunk if sign == "+"}
        found = [n for n in found if n in added]
    if not found:
        raise ValueError(f"{step['file']} has no new line {step['key']!r}: see steps.toml")
    return found[0]


def seconds(moment: str) -> int:
    """Seconds of h:mm:ss."""
    hours, minutes, rest = map(int, moment.split(":"))
    return 3600 * hours + 60 * minutes + rest


def dates(results: dict) -> str:
    """The day of the measurements, or the first and the last."""
    days = sorted({step["date"] for step in results["steps"].values()})
    return " to ".join(dict.fromkeys((days[0], days[-1])))


def precision(results: dict) -> str:
    """What the steps computed in, on the machine that they were measured on."""
    if results["machine"]["avx512_bf16"] or results["machine"]["gpu"]:
        return "float32, and from step 10 on in bfloat16"
    return "float32"


def measured(results: dict, steps: list[dict]) -> str:
    """The measured part of the README, in Markdown."""
    where = results["machine"]
    on = where["gpu"] or f"{where['cores']} cores ({where['cpu']})"
    rows = ["| script | parameters | val loss | lowest to highest | in the video | seconds |"]
    rows.append("| --- " * 6 + "|")
    for step in steps:
        if len(step["runs"]) == 1:  # it trains as the step before does
            continue
        size = step.get("size")
        video = IN_THE_VIDEO.get(step["name"], "")
        not_run = size == "laptop" and video  # the video's figure is one of the full size
        link = f"[{step['file']}]({step['file']})"
        name = link + (f", {size} size" if size else "")
        spread = f"{step['lowest']:.3f} to {step['highest']:.3f}"
        loss = f"{step['val_loss']:.2f}"
        said = "" if not_run else video
        cells = name, f"{step['parameters']:,}", loss, spread, said, step["seconds"]
        rows.append("| " + " | ".join(map(str, cells)) + " |")
        if not_run:
            rows.append(f"| {link}, full size | | not run by us | | {video} | |")
    text = (
        f"Measured on {dates(results)} on {on}, {where['system']}, Python {where['python']}, "
        f"torch {where['torch']}, in {precision(results)}. Val loss is the mean of three seeds. "
        "Seconds are for a whole run, from its start to the end of the sample. "
    )
    if not where["gpu"]:
        text += "We had no NVIDIA GPU and no Mac: nothing was run on cuda or mps. "
    ratio = results["step_8_to_step_7"]["trains"]
    text += (
        f"At the laptop size step 8 trains {ratio:.2f} times as fast as step 7, measured in turns; "
        "the seconds in the table are of runs one after the other, while the machine's speed "
        "drifted."
    )
    picture = (
        "![Val loss of the seven steps: down to step 4, up at step 5, down again](docs/ladder.svg)"
    )
    return "\n".join([picture, "", *rows, "", textwrap.fill(text, 100)])


def threads(results: dict) -> str:
    """How step 7's threads wait, in Markdown: a table, or why there is none."""
    if not results["waiting"]:
        return "It acts on Linux alone, and these measurements were made elsewhere."
    where = results["machine"]
    said = {
        "GOMP_SPINCOUNT=3000": "all, `GOMP_SPINCOUNT=3000`, as the script sets it",
        "GOMP_SPINCOUNT=300000": "all, `GOMP_SPINCOUNT=300000`, the default",
        "GOMP_SPINCOUNT=0": "all, `GOMP_SPINCOUNT=0`, as with `OMP_WAIT_POLICY=passive`",
        "one thread": "one",
    }
    busy = f"{where['cores']} other programs that keep the {where['cores']} cores busy"
    rows = [f"| threads | a quiet machine | beside {busy} |", "| --- " * 3 + "|"]
    for way, states in results["waiting"].items():
        times = []
        for state in ("quiet", "busy"):
            low, high = states.get(state, (None, None))
            times.append(
                "" if low is None else f"{low} ms" if low == high else f"{low} to {high} ms"
            )
        rows.append("| " + " | ".join([said[way], *times]) + " |")
    return "\n".join([*rows, ""])


def sampled(results: dict) -> str:
    """How fast step 15 samples, in Markdown: a table, and how near that comes to the memory."""
    where, both = results["machine"], results["sampling"]
    rows = ["| size | step 7 | step 14 | step 15 | times step 14 | times step 7 |"]
    rows.append("| --- " * 6 + "|")
    for size, one in both.items():
        speeds = [f"{one['characters'][name]:,}" for name in ("07_full_gpt", "14_muon", "15_cache")]
        times = [f"{one['times'][name]:.1f}" for name in ("14_muon", "07_full_gpt")]
        rows.append("| " + " | ".join([size, *speeds, *times]) + " |")
    full = both["full"]
    on = where["gpu"] or f"{where['cores']} cores ({where['cpu']})"
    text = (
        f"Characters a second with a full context, in float32, on {on}. A character needs each "
        f"weight once: at the full size step 15 reads {full['reads']:.1f} GB of them a second, "
        f"where a product of a large matrix with a vector reads {full['memory']:.0f}. The laptop "
        "size is too small for that: there PyTorch's time for each call is what is left."
    )
    text += " The ratios are medians of pairs, measured in turns."
    if not where["gpu"]:
        text += " We had no GPU: how it samples on one was not measured."
    return "\n".join([*rows, "", paragraph(text), ""])


def put_in(text: str, name: str, part: str) -> str:
    """The text with that part between its markers, which are comments of Markdown."""
    start, end = f"<!-- {name}: written by docs/build.py -->\n", f"\n<!-- end of {name} -->"
    before, rest = text.split(start)
    return before + start + part + end + rest.split(end)[1]


def visible(text: str) -> str:
    """The text with its line breaks and spaces to be seen."""
    return text.replace("\n", "↵").replace(" ", "␣")


def shapes(text: str) -> Markup:
    """The text with each shape, as (B, T, C), a link to what the letters mean."""
    link = r'<a class="shape" href="#letters">\1</a>'
    return Markup(re.sub(r"(\([BTCVhd3/, ]*[BTCV][BTCVhd3/, ]*\))", link, str(escape(text))))


def window(results: dict, chars: str) -> dict:
    """One window of the text, as common/data.py prints it: both rows of tokens, and the text."""
    x, y = (json.loads(row) for row in re.findall(r"[xy] = (\[[\d, ]+\])", results["data"]))
    return {"chars": chars, "x": x, "y": y, "text": "".join(chars[i] for i in [*x, y[-1]])}


def exercises() -> str:
    """The README's list of exercises as HTML; its links lead from docs/ to the files above."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    text = re.search(r"^## Exercises\n(.*?)^## ", text, flags=re.DOTALL | re.MULTILINE)[1]
    text = str(escape(text.strip()))
    text = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", text)
    text = re.sub(r"`(.+?)`", r"<code>\1</code>", text)
    text = re.sub(r"\[([^\]]+)\]\((https?:[^)]+)\)", r'<a href="\2">\1</a>', text)
    text = re.sub(r"\[([^\]]+)\]\(([^)]+)\)", r'<a href="../\2">\1</a>', text)
    parts, items = [], []
    for part in re.split(r"\n\n|\n(?=- )", text):
        if part.startswith("- "):
            items.append(f"<li>{part.removeprefix('- ')}</li>")
        else:
            parts.append(part)  # the first is said above the list, the others are figures
    results = '<p>What came of them: <a href="beyond.html#exercises">in the second page</a>.</p>'
    return "\n".join([f"<p>{parts[0]}</p>", "<ul>", *items, "</ul>", results])


def live(names: list[str], results: dict) -> dict:
    """What the live parts of a page with these steps take: sizes, samples and weights."""
    kept = json.loads((DOCS / "weights.json").read_text(encoding="utf-8"))
    learning = {n: seen for n, seen in results["learning"].items() if n in names}
    weights = {
        name: {key: value for key, value in entry.items() if key != "proof"}
        for name, entry in kept["steps"].items()
        if name in names and "int16" in entry
    }
    data = {"chars": kept["chars"], "line": LINE, "weights": weights, "learning": learning}
    file = DOCS / f"{BESIDE}.js"
    size = len(file.read_bytes()) / 1e6
    return {
        "learning": learning,
        "in_the_page": list(weights),
        "made_from": {name: entry["made_from"] for name, entry in weights.items()},
        "beside": {"name": BESIDE, "file": file.name, "size": f"{size:.1f} MB"},
        "window": window(results, kept["chars"]),
        "exercises": exercises(),
        "data": Markup(json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")),
    }


def build() -> dict[Path, str]:
    """Every file that comes from the scripts and the results, with its text."""
    results = json.loads((DOCS / "results.json").read_text(encoding="utf-8"))
    exercises = json.loads((DOCS / "exercises.json").read_text(encoding="utf-8"))
    table = tomllib.loads((DOCS / "steps.toml").read_text(encoding="utf-8"))
    environment = Environment(
        loader=FileSystemLoader(DOCS), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"visible": visible, "shapes": shapes}
    steps: list[dict] = []
    for number, (name, entry) in enumerate(table.items(), 1):
        source = name  # of the figures: 15 and 16 train as 14 does, and 10 in float32 as 9
        while source not in results["steps"]:
            source = table[source]["extends"]
        step = results["steps"][source] | entry | {"name": name, "number": number}
        steps.append(step)
        old = next((old for old in steps if old["name"] == step.get("extends")), None)
        moment = step.get("video")
        idea = environment.from_string(step["idea"]).render(results=results)
        beyond = step["file"].startswith("beyond/")
        step |= {
            "old": old,
            "beyond": beyond,
            "idea": idea.strip(),
            "lines": lines_of(step["file"]),
            "hunks": changes(old["file"], step["file"]) if old else [],
            "gain": round(step["val_loss"], 2) - round(old["val_loss"], 2) if old else None,
            "boxes": nested(step["picture"]) if "picture" in step else [],
            "mathml": convert(step["formula"], display="block") if "formula" in step else None,
            "url": f"{VIDEO}&t={seconds(moment)}s" if moment else None,
            "sources": list(step.get("sources", {}).items()),
            "in_the_video": IN_THE_VIDEO.get(name),
            "as_before": name in AS_BEFORE,
            "trains_as": list(table).index(source) + 1,
        }
        signs = [sign for hunk in step["hunks"] for sign, _, _ in hunk]
        step |= {"added": signs.count("+"), "removed": signs.count("-"), "key_line": find_key(step)}
        step["new_lines"] = {n for hunk in step["hunks"] for sign, n, _ in hunk if sign == "+"}
        shown = [old, step] if beyond else steps  # after the video, beside the step before
        step["curves"] = svg(curves(shown), f"curves-{number}", ON_THE_PAGE)
    heads = results["attention"]["heads"]
    for role, head in heads.items():
        figure = draw({head["name"]: head["weights"]}, results["attention"]["text"], 1, INK, ACCENT)
        head["svg"] = svg(figure, f"head-{role}", ON_THE_PAGE)
    video = [step for step in steps if not step["beyond"]]
    after = [step for step in steps if step["beyond"]]
    picture = svg(second.figure(steps, INK, ACCENT, MUTED), "second", ON_THE_PAGE)
    ladder_of_time = second.page(steps, picture)
    sliding, scaling = (
        json.loads((DOCS / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("sliding", "scaling")
    )
    pages = {
        page: environment.get_template("page.html.jinja").render(
            page=page,
            results=results,
            exercises=exercises,
            dates=dates(results),
            steps=video,
            beyond=after,
            heads=heads,
            video=VIDEO,
            ladder=svg(ladder(video), "ladder", ON_THE_PAGE),
            second=ladder_of_time,
            sliding=sliding,
            scaling=scaling,
            scaling_curve=svg(scaling_curve(scaling), "scaling", ON_THE_PAGE),
            scaling_formula=convert(STEP_TIME, display="block"),
            live=live([step["name"] for step in shown], results),
        )
        for page, shown in (("index.html", video), ("beyond.html", after))
    }
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    readme = put_in(readme, "measured", measured(results, steps))
    readme = put_in(readme, "threads", threads(results))
    readme = put_in(readme, "sampled", sampled(results))
    readme = put_in(readme, "time", second.markdown(steps))
    readme = put_in(readme, "sample", f"```\n{results['sample']['text']}\n```")
    for name, write in (("own_text", own_text), ("finetuning", fine_tuning)):
        if name in exercises:
            readme = put_in(readme, name, write(exercises[name]))
    picture = svg(ladder(video), "ladder", ALONE)
    paper = '<rect width="100%" height="100%" fill="#ffffff"/>'
    picture = re.sub(r"(<svg[^>]*>)", rf"\1\n {paper}", picture, count=1)
    return {
        **{DOCS / page: text + "\n" for page, text in pages.items()},
        DOCS / "ladder.svg": picture + "\n",
        ROOT / "README.md": readme,
    }


def main() -> None:
    """Write the page, its picture for the README, and the measured parts of the README."""
    about, details = __doc__.split("\n", 1)
    argparse.ArgumentParser(
        description=about, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    for path, text in build().items():
        path.write_text(text, encoding="utf-8", newline="\n")
        print(f"{path.relative_to(ROOT)}: {len(text.encode()):,} bytes")


if __name__ == "__main__":
    main()
