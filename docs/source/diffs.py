"""The diffs of the pages: what git shows between two scripts, as coloured lines of HTML."""

import ast
import re
import subprocess
import sys
from pathlib import Path

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

SOURCE = Path(__file__).resolve().parent
ROOT = SOURCE.parent.parent


def lines_of(file: str) -> list[str]:
    """The lines of a script as HTML."""
    source = (ROOT / file).read_text(encoding="utf-8")
    text = highlight(source, PythonLexer(), HtmlFormatter(nowrap=True))
    css = set(re.findall(r"\.(\w+)", (SOURCE / "page.css").read_text(encoding="utf-8")))
    text = re.sub(
        r'<span class="(\w+)">([^<]*)</span>',
        # Most tokens have no colour, and those that have one are many: their tags are short.
        lambda token: f"<b class={token[1]}>{token[2]}</b>" if token[1] in css else token[2],
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
