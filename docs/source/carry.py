"""Carries an edit of one script into every script that extends it.

    python docs/source/carry.py 03_multihead    what changed there since the last commit
    python docs/source/carry.py 03 --since main    or since another revision

docs/source/steps.toml says what each script extends. A script gets the edit of that one by
`git merge-file`, and passes on what this changed. Where an edit does not fit, both versions stand
between git's conflict markers, and the scripts after it wait: mend the place, then carry on from
there. Docstrings always differ: in them, what does not fit is left out.
"""

import argparse
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
STEPS = tomllib.loads((ROOT / "docs" / "source" / "steps.toml").read_text(encoding="utf-8"))


def merge(mine: str, old: str, new: str, *options: str) -> str:
    """My text with what changed from old to new, as git merges them."""
    with tempfile.TemporaryDirectory() as folder:
        for name, text in {"mine": mine, "old": old, "new": new}.items():
            (Path(folder) / name).write_text(text, encoding="utf-8", newline="\n")
        command = ["git", "merge-file", "-p", *options, "mine", "old", "new"]
        merged = subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8")
    # The exit status is the number of conflicts, and above 127 an error.
    if merged.returncode > 127:
        sys.exit(merged.stderr.strip())
    return merged.stdout


def docstring_and_rest(script: str) -> tuple[str, str]:
    """The docstring at the beginning of a script, and what follows."""
    end = script.index('"""\n', 3) + 4
    return script[:end], script[end:]


def carry(name: str, old: str, new: str) -> bool:
    """Carry what became of a script into all that extend it; whether it fitted everywhere."""
    fits = True
    edit = docstring_and_rest(old), docstring_and_rest(new)
    for later, row in STEPS.items():
        if old == new or row.get("extends") != name:
            continue
        file = ROOT / row["file"]
        before = file.read_text(encoding="utf-8")
        if "\n<<<<<<< " in before:
            sys.exit(f"{row['file']} has conflict markers: mend these first")
        docstring, rest = zip(docstring_and_rest(before), *edit, strict=True)
        now = merge(*docstring, "--ours") + merge(*rest)
        file.write_text(now, encoding="utf-8", newline="\n")
        places = [i for i, line in enumerate(now.split("\n"), 1) if line.startswith("<<<<<<< ")]
        if places:
            print(f"{row['file']}: does not fit in line {', '.join(map(str, places))}")
            fits = False
        else:
            print(f"{row['file']}: {'as it was' if now == before else 'carried'}")
            fits &= carry(later, before, now)
    return fits


def main() -> None:
    """Carry the edit of the script that the command line names."""
    about, details = __doc__.split("\n", 1)
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=about, epilog=details, formatter_class=layout)
    parser.add_argument("script", help="the beginning of its name, like 03 or 03_multihead")
    parser.add_argument("--since", default="HEAD", help="the revision before the edit")
    args = parser.parse_args()
    names = [name for name in STEPS if name.startswith(args.script)]
    if len(names) != 1:
        parser.error(f"{args.script!r} is not the beginning of one name: {', '.join(STEPS)}")
    file = STEPS[names[0]]["file"]
    command = ["git", "show", f"{args.since}:{file}"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8")
    if shown.returncode:
        sys.exit(shown.stderr.strip())
    new = (ROOT / file).read_text(encoding="utf-8")
    if new == shown.stdout:
        sys.exit(f"{file} is as it was in {args.since}: nothing to carry")
    sys.exit(0 if carry(names[0], shown.stdout, new) else 1)


if __name__ == "__main__":
    main()
