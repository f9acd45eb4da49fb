"""A step is its diff: what may differ between neighbours, and everything else to the letter."""

import ast
import itertools
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT, SCRIPTS

# What a reader sees who diffs two neighbours, part by part. A class stands for its head: its name,
# docstring and fields; its methods are parts of their own. Whatever is not named is the same.
WHAT_DIFFERS = {
    "01_bigram to 02_self_attention": {
        "docstring": "changed",
        "Config": "changed",  # n_embd; a smaller learning rate and more steps
        "Head": "new",
        "LanguageModel": "changed",
        "LanguageModel.__init__": "changed",  # embeddings, positions, the head, the way to logits
        "LanguageModel.forward": "changed",
        "LanguageModel.generate": "changed",  # cropped to block_size
    },
    "02_self_attention to 03_multihead": {
        "docstring": "changed",
        "Config": "changed",  # n_head
        "Config.__post_init__": "changed",  # which must divide n_embd
        "MultiHeadAttention": "new",
        "LanguageModel.__init__": "changed",
    },
    "03_multihead to 04_feedforward": {
        "docstring": "changed",
        "FeedForward": "new",
        "LanguageModel.__init__": "changed",
        "LanguageModel.forward": "changed",
    },
    "04_feedforward to 05_blocks": {
        "docstring": "changed",
        "Config": "changed",  # n_layer
        "Block": "new",
        "LanguageModel.__init__": "changed",
        "LanguageModel.forward": "changed",
    },
    "05_blocks to 06_residual_layernorm": {
        "docstring": "changed",
        "MultiHeadAttention.__init__": "changed",  # the projection
        "MultiHeadAttention.forward": "changed",
        "FeedForward.__init__": "changed",  # four times as wide, and back
        "Block.__init__": "changed",  # two norms
        "Block.forward": "changed",  # x + ...
        "LanguageModel.__init__": "changed",  # the last norm
        "LanguageModel.forward": "changed",
    },
    "06_residual_layernorm to 07_full_gpt": {
        "docstring": "changed",
        "imports": "changed",  # for checkpoints and Ctrl-C
        "Config": "changed",  # sizes, dropout, a falling step size, sampling, checkpoints
        "Config.__post_init__": "changed",
        "Head": "gone",  # into MultiHeadAttention
        "MultiHeadAttention": "changed",
        "MultiHeadAttention.__init__": "changed",
        "MultiHeadAttention.forward": "changed",
        "FeedForward.__init__": "changed",  # dropout
        "LanguageModel.__init__": "changed",  # initialisation
        "LanguageModel.generate": "changed",  # temperature, top_k
        "load": "new",  # a checkpoint
        "train": "changed",  # keeps one, resumes from one, and lets the step size fall
        "main": "changed",  # all threads, as these tensors are large enough; --sample
        "parse_args": "changed",  # --size
    },
}

# Changed lines, added and removed, as git counts them. A line more or less, and be it a comment,
# is a decision to be made here; what the eye takes in at one look is at most 28 and 12.
CHANGED_LINES = [(38, 11), (20, 6), (20, 4), (21, 8), (17, 9), (134, 59)]

ORDER = (
    "docstring imports Config Head MultiHeadAttention FeedForward Block LanguageModel "
    "estimate_loss load train main parse_args __main__"
).split()


def name_of(node):
    if isinstance(node, ast.Import | ast.ImportFrom):
        return "imports"
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return "docstring"
    if isinstance(node, ast.Assign):
        return node.targets[0].id
    if isinstance(node, ast.If):
        return "__main__"
    return node.name


def parts_of(script):
    """The parts of a script in their order, by name: all its text, comments and blank lines too."""
    source = (ROOT / f"{script}.py").read_text(encoding="utf-8")
    lines = source.splitlines(keepends=True)
    parts, start = {}, 0

    def add(name, end):
        nonlocal start
        parts[name] = parts.get(name, "") + "".join(lines[start:end])
        start = end

    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef):
            for method in (n for n in node.body if isinstance(n, ast.FunctionDef)):
                first = min([method.lineno, *(d.lineno for d in method.decorator_list)])
                while lines[first - 2].lstrip().startswith("#"):
                    first -= 1
                if node.name not in parts:
                    add(node.name, first - 1)
                add(f"{node.name}.{method.name}", method.end_lineno)
        add(name_of(node), node.end_lineno)
    assert "".join(parts.values()) == source.rstrip("\n") + "\n"
    return {name: text for name, text in parts.items() if text}


PARTS = {script: parts_of(script) for script in SCRIPTS}
NEIGHBOURS = list(itertools.pairwise(SCRIPTS))


def differences(old, new):
    """What differs between two scripts; the methods of a class that is new or gone go with it."""
    found = {}
    for name in [*PARTS[new], *PARTS[old]]:
        if name not in PARTS[old]:
            found[name.split(".")[0] if name.split(".")[0] not in PARTS[old] else name] = "new"
        elif name not in PARTS[new]:
            found[name.split(".")[0] if name.split(".")[0] not in PARTS[new] else name] = "gone"
        elif PARTS[old][name] != PARTS[new][name]:
            found[name] = "changed"
    return found


@pytest.mark.parametrize(("old", "new"), NEIGHBOURS)
def test_neighbours_differ_where_the_idea_is_and_nowhere_else(old, new):
    assert differences(old, new) == WHAT_DIFFERS[f"{old} to {new}"]


@pytest.mark.parametrize(("old", "new"), NEIGHBOURS)
def test_lines_that_stay_keep_their_order(old, new):
    common = [name for name in PARTS[old] if name in PARTS[new]]
    assert common == [name for name in PARTS[new] if name in PARTS[old]]


@pytest.mark.skipif(not shutil.which("git"), reason="needs git")
@pytest.mark.parametrize(
    ("old", "new", "lines"), list(zip(SCRIPTS, SCRIPTS[1:], CHANGED_LINES, strict=False))
)
def test_diffs_are_as_small_as_ever(old, new, lines):
    command = ["git", "diff", "--no-index", "--numstat", f"{old}.py", f"{new}.py"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout
    assert tuple(map(int, printed.split()[:2])) == lines


@pytest.mark.parametrize("script", SCRIPTS)
def test_parts_stand_in_the_same_order_in_every_script(script):
    names = [name for name in PARTS[script] if "." not in name]
    assert names == [name for name in ORDER if name in names]
    always = {"docstring", "imports", "Config", "LanguageModel", "estimate_loss", "train"}
    assert always | {"main", "parse_args", "__main__"} <= set(names)


@pytest.mark.parametrize(("old", "new"), NEIGHBOURS)
def test_what_is_new_stands_directly_above_what_uses_it(old, new):
    names = [name for name in PARTS[new] if "." not in name]
    for name in names:
        if name not in PARTS[old]:
            user = names[names.index(name) + 1]
            text = "".join(t for n, t in PARTS[new].items() if n.split(".")[0] == user)
            assert f"{name}(" in text


def imported_modules(script):
    for node in ast.walk(ast.parse((ROOT / f"{script}.py").read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module, alias.name) for alias in node.names)


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_share_only_data_and_device(script):
    requirements = (ROOT / "requirements.txt").read_text().split()
    packages = {line.split("==")[0] for line in requirements}
    for module, name in imported_modules(script):
        top = module.split(".")[0]
        if top == "common":
            assert (module, name) in {
                ("common.data", "TINY_SHAKESPEARE"),
                ("common.data", "Corpus"),
                ("common.data", "Vocabulary"),
                ("common.data", "load_corpus"),
                ("common.data", "whole_file"),  # how a checkpoint is put in place
                ("common.device", "select_device"),
                ("common.device", "fast_math"),  # what the selected device is good at
                ("common.device", "seconds_for"),
            }
        else:
            assert top in sys.stdlib_module_names or top in packages


def test_requirements_are_pinned():
    for folder in (ROOT, ROOT / "docs", ROOT / "tests"):
        for line in (folder / "requirements.txt").read_text().split("\n"):
            assert "==" in line or line.startswith("-r") or not line
