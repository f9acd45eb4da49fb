"""Makes the walkthrough, docs/index.html, and the measured part of the README.

    python docs/build.py

What goes in: the seven scripts, docs/results.json, the sentences in docs/steps.toml, and the form
of the page in docs/page.html.jinja and docs/page.css. The same input gives the same output, to the
byte. Needs docs/requirements.txt, and git, whose diffs it shows.
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
from attention import draw
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from latex2mathml.converter import convert
from matplotlib.figure import Figure
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
VIDEO = "https://www.youtube.com/watch?v=kCc8FmEb1nY"
SAID = {  # in the video, of the val loss
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
    names = [f"{x} " + step["short"].replace(" ", "\n") for x, step in enumerate(steps, 1)]
    names[-1] += f"\n({steps[-1]['size']})"
    ax.set_xticks(range(1, 8), names, fontsize=8)
    ax.tick_params(axis="y", labelsize=8)
    ax.set_ylabel("val loss (nats per character)", fontsize=8)
    ax.set(xlim=(0.6, 7.5), ylim=(steps[-1]["val_loss"] - 0.1, steps[0]["val_loss"] + 0.15))
    return figure


def curves(steps: list[dict], number: int) -> Figure:
    """The val loss on the way, of one step over those before it."""
    figure, ax = plt.subplots(figsize=(4.6, 2.5), layout="constrained")
    for x, step in enumerate(steps[:number], 1):
        runs = [run["curve"] for run in step["runs"]]
        at = [point[0] for point in runs[0]]
        mean = [sum(point[2] for point in points) / len(runs) for points in zip(*runs, strict=True)]
        colour, width = (ACCENT, 2) if x == number else (MUTED, 0.8)
        ax.plot(at, mean, color=colour, linewidth=width)
        end = (at[-1], mean[-1])
        ax.annotate(str(x), end, (4, -3), textcoords="offset points", fontsize=8, color=colour)
    bottom = min(step["val_loss"] for step in steps) - 0.1
    ax.set(ylim=(bottom, 3), xlim=(0, 5250))
    ax.tick_params(labelsize=8)
    ax.set_xlabel("optimiser steps", fontsize=8)
    ax.set_ylabel("val loss", fontsize=8)
    return figure


def lines_of(script: str) -> list[str]:
    """The lines of a script as HTML."""
    source = (ROOT / f"{script}.py").read_text(encoding="utf-8")
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
    command += ["--diff-algorithm=myers", "--indent-heuristic", f"{old}.py", f"{new}.py"]
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
    """The number of the line that the ladder points to."""
    source = (ROOT / f"{step['script']}.py").read_text(encoding="utf-8").split("\n")
    found = [n for n, line in enumerate(source, 1) if line.strip().startswith(step["key"])]
    if step["hunks"]:
        added = {n for hunk in step["hunks"] for sign, n, _ in hunk if sign == "+"}
        found = [n for n in found if n in added]
    if not found:
        raise ValueError(f"{step['script']}.py has no new line {step['key']!r}: see steps.toml")
    return found[0]


def seconds(moment: str) -> int:
    """Seconds of h:mm:ss."""
    hours, minutes, rest = map(int, moment.split(":"))
    return 3600 * hours + 60 * minutes + rest


def duration(minutes: int) -> str:
    """Minutes in words, in hours where there are many."""
    return f"{minutes / 60:.0f} hours" if minutes >= 90 else f"{minutes} minutes"


def measured(results: dict, steps: list[dict]) -> str:
    """The measured part of the README, in Markdown."""
    where = results["machine"]
    on = where["gpu"] or f"{where['cores']} cores ({where['cpu']})"
    rows = ["| script | parameters | val loss, seed 1337 | three seeds | in the video | seconds |"]
    rows.append("| --- " * 6 + "|")
    for step in steps:
        size = step.get("size")
        loss = f"{step['runs'][0]['curve'][-1][2]:.4f}"
        spread = f"{step['lowest']:.3f} to {step['highest']:.3f}" if len(step["runs"]) > 1 else ""
        name = f"[{step['script']}.py]({step['script']}.py)" + (f", {size} size" if size else "")
        said = "" if size == "laptop" else SAID[step["script"]]
        cells = name, f"{step['parameters']:,}", loss, spread, said, step["seconds"]
        rows.append("| " + " | ".join(map(str, cells)) + " |")
    if steps[6]["size"] == "laptop":
        name = "[07_full_gpt.py](07_full_gpt.py), full size"
        rows.append(f"| {name} | | not run by us | | {SAID['07_full_gpt']} | |")
    said = (
        f"Measured on {results['date']} on {on}, {where['system']}, Python {where['python']}, "
        f"torch {where['torch']}. The picture shows the mean of the seeds. "
        "Seconds are for a whole run, from its start to the end of the sample. "
    )
    if not where["gpu"]:
        said += "We had no NVIDIA GPU and no Mac: nothing was run on cuda or mps. "
    if results["full_size_minutes"]:
        said += (
            f"For its full size step 7 forecasts {duration(results['full_size_minutes'])} here. "
        )
    ratio = results["step_7_to_step_6"]["trains"]
    said += (
        f"At the laptop size step 7 trains {ratio} times as fast as step 6 with the same settings"
    )
    said += ", both on all cores" + (", step 7 in bfloat16." if where["bfloat16"] else ".")
    picture = (
        "![Val loss of the seven steps: down to step 4, up at step 5, down again](docs/ladder.svg)"
    )
    return "\n".join([picture, "", *rows, "", textwrap.fill(said, 100)])


def put_in(text: str, name: str, part: str) -> str:
    """The text with that part between its markers, which are comments of Markdown."""
    start, end = f"<!-- {name}: written by docs/build.py -->\n", f"\n<!-- end of {name} -->"
    before, rest = text.split(start)
    return before + start + part + end + rest.split(end)[1]


def build() -> dict[Path, str]:
    """Every file that comes from the scripts and the results, with its text."""
    results = json.loads((DOCS / "results.json").read_text(encoding="utf-8"))
    sentences = tomllib.loads((DOCS / "steps.toml").read_text(encoding="utf-8"))
    steps = [step | sentences[step["script"]] for step in results["steps"]]
    for number, step in enumerate(steps, 1):
        script = step["script"]
        old = steps[number - 2] if number > 1 else None
        step |= {
            "number": number,
            "lines": lines_of(script),
            "hunks": changes(old["script"], script) if old else [],
            "gain": round(step["val_loss"], 2) - round(old["val_loss"], 2) if old else None,
            "curves": svg(curves(steps, number), f"curves-{number}", ON_THE_PAGE),
            "boxes": nested(step["picture"]),
            "mathml": convert(step["formula"], display="block"),
            "url": f"{VIDEO}&t={seconds(step['video'])}s",
            "said": SAID[script],
        }
        signs = [sign for hunk in step["hunks"] for sign, _, _ in hunk]
        step |= {"added": signs.count("+"), "removed": signs.count("-"), "key_line": find_key(step)}
        step["new_lines"] = {n for hunk in step["hunks"] for sign, n, _ in hunk if sign == "+"}
    heads = results["attention"]["heads"]
    for role, head in heads.items():
        figure = draw({head["name"]: head["weights"]}, results["attention"]["text"], 1, INK, ACCENT)
        head["svg"] = svg(figure, f"head-{role}", ON_THE_PAGE)
    environment = Environment(
        loader=FileSystemLoader(DOCS), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    page = environment.get_template("page.html.jinja").render(
        results=results,
        steps=steps,
        heads=heads,
        video=VIDEO,
        duration=duration,
        ladder=svg(ladder(steps), "ladder", ON_THE_PAGE),
    )
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    readme = put_in(readme, "measured", measured(results, steps))
    readme = put_in(readme, "sample", f"```\n{results['kept']['text']}\n```")
    picture = svg(ladder(steps), "ladder", ALONE)
    paper = '<rect width="100%" height="100%" fill="#ffffff"/>'
    picture = re.sub(r"(<svg[^>]*>)", rf"\1\n {paper}", picture, count=1)
    return {
        DOCS / "index.html": page + "\n",
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
