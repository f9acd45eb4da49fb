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
import json
import math
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import charts
import lab
import tables
from diffs import find_key, fold, folded_diff, hunks_between, lines_of, parts_by_line
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from latex2mathml.converter import convert
from markupsafe import Markup
from words import for_the_page, kept_whole, nested, seconds, shapes, visible

SOURCE = Path(__file__).resolve().parent
DOCS = SOURCE.parent
ROOT = DOCS.parent
RESULTS = ROOT / "measure" / "results"
MADE_BY = {  # the results, and what in measure/ writes each; its --help says the rest
    "losses": "losses.py",
    "gradients": "gradients.py",
    "times": "throughput.py with --keep",
    "race": "race.py",
    "pieces": "pieces.py",
    "vocabulary": "vocabulary.py",
    "reward": "reward.py",
    "speculative": "speculative.py",
    "reading": "reading.py",
}
READINGS = {  # what the table calls the ways of measure/reading.py
    "no steps": "no steps",
    "adam": "steps of Adam",
    "sgd": "steps of SGD",
    "adam, random order": "steps of Adam, windows in a random order",
    "adam, training split": "no steps, but as many before, on the training split",
}
BESIDE = "07_full_gpt"  # its weights are a file beside the page
BESIDE_SHAPE = {"config": {"n_head": 3, "n_layer": 6}}
SCRIPTS = ["model", "train", "train_view", "line", "race", "typing", "write"]  # in their order
SCRIPTS += ["address", "path", "inside", "table", "cell", "heads", "switches"]
EXAMPLES = [  # lines to tap, and what the page says of each
    ("First Citizen:", "The text that they learnt from begins with these words."),
    (
        "Where is the queen?",
        "A question in the words of the plays. The text itself does not have it.",
    ),
    (
        "hello",
        "Step 1 is best, step 6 worst: four letters are a small sample. Over all unseen text step 7"
        " is best.",
    ),
]
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


TEXTS = ("problem", "reason", "idea", "do", "next")  # of steps.toml, which may hold figures


# --- The pages ---


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
            | {"no_positions": found["no_positions"]}
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


def parts_of(formula: str) -> list[str]:
    """The formula in MathML, cut at its wide spaces, where a narrow page may begin a new line."""
    return [convert(part, display="block") for part in formula.split(r"\quad")]


def head_name(config: dict, i: int) -> str:
    """What a head is called, as the page calls it."""
    heads = config.get("n_head", 1)
    block = f"block {i // heads + 1}, " if "n_layer" in config else ""
    return f"{block}head {i % heads + 1}"


def read_results(names: list[str]) -> dict:
    """What was measured, file by file; what was not measured ends the program."""
    found = {}
    for name, command in MADE_BY.items():
        path = RESULTS / f"{name}.json"
        if path.exists():
            found[name] = json.loads(path.read_text(encoding="utf-8"))
        else:
            sys.exit(f"{path} is missing: run python measure/{command}")
    if missing := [name for name in names if name not in found["losses"]["steps"]]:
        sys.exit(f"not measured: run python measure/losses.py {' '.join(missing)}")
    timed = found["times"]["default"]["ms"]
    if missing := [name for name in names if name >= BESIDE and name not in timed]:
        sys.exit(f"not timed: run python measure/throughput.py {' '.join(missing)} --keep")
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
            "beside": next((one for one in steps if one["name"] == step.get("beside")), None),
            "beyond": step["kind"] != "step",
            **{key: idea(step[key]) for key in TEXTS if key in step},
            "ask": [(idea(what), idea(text)) for what, text in step.get("ask", {}).items()],
            "why": [(what, idea(text)) for what, text in step.get("why", {}).items()],
            "lines": lines_of(step["file"]),
            "hunks": hunks_between(old["file"], step["file"]) if old else [],
            "boxes": nested(step["picture"]) if "picture" in step else [],
            "mathml": parts_of(step["formula"]) if "formula" in step else [],
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
            step["curves"] = charts.curves(shown)
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
    found = read_results([n for n, row in table.items() if row["kind"] in kinds])
    results, gradients, times, raced = (found[n] for n in ("losses", "gradients", "times", "race"))
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
    added = found["pieces"]["06_residual_layernorm"]
    before = next(step for step in steps if step["name"] == "05_blocks")
    cuts = lab.growing(" brother", race["window"]["chars"], chosen["merges"])
    pictures = {
        "ladder": charts.ladder(by_kind["step"]),
        "gradients": charts.gradient_bars(gradients),
        "pieces": charts.pieces(before, added),
        "race": charts.seconds_figure(raced),
        "turns": charts.turns(lab.turned_pairs()),
        "singular": charts.singular_values(*lab.singular_values()),
        "growing": charts.growing(cuts),
        "answers": charts.right_answers(found["reward"]["runs"]),
        "drafts": charts.drafts(found["speculative"]),
        "reading": charts.reading(found["reading"]["runs"]),
    }
    pages = {}
    for page, kind in (("index.html", "step"), ("beyond.html", "lesson")):
        learning = {step["name"]: step["evaluations"] for step in by_kind[kind]}
        tokens = {"chars": race["window"]["chars"], "merges": chosen["merges"]}
        data = {"learning": learning} | ({"tokens": tokens} if kind == "lesson" else {})
        pages[page] = environment.get_template("page.html.jinja").render(
            page=page,
            results=results,
            times=times,
            vocabulary=found["vocabulary"],
            raced=raced["times"][0]["machine"],
            pieces={"step 5": before} | added,
            blind=found["pieces"]["02_self_attention"]["no positions"],
            cuts=cuts,
            by_name={step["name"]: step for step in steps},
            pictures=pictures,
            dates=" to ".join(dict.fromkeys((days[0], days[-1]))),
            steps=by_kind["step"],
            lessons=by_kind["lesson"],
            leaves=by_kind["leaf"],
            exercises=by_kind["exercise"],
            video=VIDEO,
            seeds=len(gradients["05_blocks"]),
            live=race,
            scripts=[f"{name}.js" for name in SCRIPTS],
            examples=EXAMPLES,
            even_guess=math.log(len(race["window"]["chars"])),
            training=training(race["window"]["chars"]),
            chars=len(race["window"]["chars"]),
            merges=len(chosen["merges"]),
            data=for_the_page(data),
        )
    parts = {
        "losses": tables.losses(by_kind["step"] + by_kind["lesson"]),
        "vocabularies": tables.vocabulary_table(found["vocabulary"]),
        "race": tables.race_table(raced),
        "rewards": tables.reward_table(found["reward"]["runs"]),
        "drafts": tables.drafts_table(found["speculative"]),
        "readings": tables.reading_table(found["reading"]["runs"], READINGS),
    }
    lessons = tables.lessons_table(by_kind["lesson"], times)
    readme, beyond = ROOT / "measure" / "README.md", ROOT / "beyond" / "README.md"
    return {
        **{DOCS / page: kept_whole(text) + "\n" for page, text in pages.items()},
        DOCS / "ladder.svg": charts.ladder(by_kind["step"], alone=True),
        DOCS / "race.svg": charts.seconds_figure(raced, alone=True),
        readme: tables.put_in(readme, parts),
        beyond: tables.put_in(beyond, {"lessons": lessons}),
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
