"""Carries an edit of one step into every later step that has the same lines.

    python docs/source/carry.py 03_multihead    what changed there since the last commit
    python docs/source/carry.py 03 --since main    or since another revision
    python docs/source/carry.py 03 --dry-run    only says what would happen

Later steps are those that extend it, directly or through others, by docs/source/steps.toml. A
change goes where the lines that it replaces stand, with what surrounds them as far as it is the
same, if there is exactly one such place. A line names each change that did not fit, and the exit
status is 1.
"""

import argparse
import dataclasses
import itertools
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
STEPS = tomllib.loads((ROOT / "docs" / "source" / "steps.toml").read_text(encoding="utf-8"))
AROUND = [(3, 3), (2, 2), (1, 1)]  # lines before and after that must be the same: many, then few


@dataclasses.dataclass
class Change:
    """Lines that make room for others, with up to three unchanged ones before and after them."""

    line: int  # where it is in the edited step, from 1
    before: list[str]
    removed: list[str]
    added: list[str]
    after: list[str]

    def put_into(self, lines: list[str]) -> bool | None:
        """Make the change in lines: True. None if it is there already, False if it does not fit."""
        few = [(1, 0), (0, 1), (0, 0)]
        if self.added and self.place(lines, self.added, AROUND) is not None:
            return None
        at = self.place(lines, self.removed, AROUND + (few if self.removed else []))
        if at is not None:
            lines[at : at + len(self.removed)] = self.added
            return True
        there = self.place(lines, self.added, few if self.added else AROUND)
        return False if there is None else None

    def place(self, lines: list[str], these: list[str], around: list) -> int | None:
        """Where these lines stand in lines, if that is one place and its surroundings agree."""
        for above, below in around:
            before = self.before[len(self.before) - min(above, len(self.before)) :]
            block = before + these + self.after[:below]
            starts = range(len(lines) - len(block) + 1)
            places = [i for i in starts if lines[i : i + len(block)] == block]
            if places:
                return places[0] + len(before) if len(places) == 1 else None
        return None


def changes(file: str, revision: str) -> list[Change]:
    """What became of the lines of a file since a revision, from top to bottom, as git sees it."""
    command = ["git", "diff", "--no-ext-diff", "--no-color", "-U3", revision, "--", file]
    diff = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8")
    if diff.returncode:
        sys.exit(diff.stderr.strip().split("\n")[0])
    found = []
    numbers_and_hunks = re.split(r"^@@ \S+ \+(\d+).*\n", diff.stdout, flags=re.M)[1:]
    for number, hunk in zip(numbers_and_hunks[::2], numbers_and_hunks[1::2], strict=True):
        line = int(number)
        groups = itertools.groupby(hunk.splitlines(keepends=True), key=lambda text: text[0] == " ")
        runs = [[], *(list(group) for _, group in groups), []]
        for before, run, after in zip(runs, runs[1:], runs[2:], strict=False):
            parts = {sign: [text[1:] for text in run if text[0] == sign] for sign in " -+"}
            if not parts[" "]:
                above, below = ([text[1:] for text in lines] for lines in (before[-3:], after[:3]))
                found.append(Change(line, above, parts["-"], parts["+"], below))
            line += len(parts[" "]) + len(parts["+"])
    return found


def find(name: str) -> str:
    """The step that 03, 03_multihead or the name of its file stands for."""
    stem = Path(name).name.removesuffix(".py")
    for step in STEPS:
        if stem == step or stem.zfill(2) == step.split("_")[0]:
            return step
    raise argparse.ArgumentTypeError(f"no step {name!r}: there are {', '.join(STEPS)}")


def extends(step: str, other: str) -> bool:
    """Whether a step builds on another, directly or through others."""
    below = STEPS[step].get("extends")
    return below is not None and (below == other or extends(below, other))


def main() -> None:
    """Carry the edit of the step that the command line names."""
    about, details = __doc__.split("\n", 1)
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        description=about, epilog=details, formatter_class=layout, usage=argparse.SUPPRESS
    )
    parser.add_argument("step", type=find, help="like 03, 03_multihead or its file")
    parser.add_argument("--since", default="HEAD", help="the revision before the edit")
    parser.add_argument("--dry-run", action="store_true", help="write nothing")
    args = parser.parse_args()
    edit = changes(STEPS[args.step]["file"], args.since)
    if not edit:
        sys.exit(f"{STEPS[args.step]['file']} is as it was in {args.since}: nothing to carry")
    later = [step for step in STEPS if extends(step, args.step)]
    if not later:
        sys.exit(f"no step extends {args.step}: nothing to carry it into")
    all_fit = True
    for step in later:
        file = ROOT / STEPS[step]["file"]
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
        results = [change.put_into(lines) for change in edit]
        print(f"{step}: {results.count(True)} of {len(edit)} changes carried", end="")
        print(f", {results.count(None)} there already" if None in results else "")
        for change, fits in zip(edit, results, strict=True):
            if fits is False:
                text = "".join(change.removed or change.added).strip().split("\n")[0]
                print(f'{step}: line {change.line} "{text}" did not fit')
                all_fit = False
        if True in results and not args.dry_run:
            file.write_text("".join(lines), encoding="utf-8", newline="\n")
    sys.exit(0 if all_fit else 1)


if __name__ == "__main__":
    main()
