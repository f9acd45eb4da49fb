"""A step is its diff: what may differ from the one it extends, and all else to the letter."""

import ast
import itertools
import re
import shutil
import subprocess
import sys

import pytest
from conftest import EXERCISES, FILES, ROOT, SCRIPTS, TABLE
from packaging.requirements import Requirement

ALL = {name: ROOT / row["file"] for name, row in (TABLE | EXERCISES).items()}
PAIRS = [(row["extends"], name) for name, row in (TABLE | EXERCISES).items() if "extends" in row]

# What a reader sees who diffs a pair, part by part. A class stands for its head: its name,
# docstring and fields; its methods are parts of their own. Whatever is not named is the same.
WHAT_DIFFERS = {
    "01_bigram to 02_self_attention": {
        "docstring": "changed",
        "Config": "changed",  # n_embd; a lower learning rate and more steps
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
        "imports": "changed",  # how threads wait, before torch starts them
        "Config": "changed",  # sizes, dropout
        "Config.__post_init__": "changed",
        "LAPTOP": "new",
        "Head.__init__": "changed",  # dropout
        "Head.forward": "changed",
        "MultiHeadAttention.__init__": "changed",
        "MultiHeadAttention.forward": "changed",
        "FeedForward.__init__": "changed",
        "LanguageModel.__init__": "changed",  # initialisation
        "main": "changed",  # all threads, as these tensors are large enough
        "parse_args": "changed",  # --size
    },
    "07_full_gpt to 08_batched_heads": {
        "docstring": "changed",
        "imports": "changed",  # finds common/ from beyond/
        "Head": "gone",  # into MultiHeadAttention
        "MultiHeadAttention.__init__": "changed",
        "MultiHeadAttention.forward": "changed",
    },
    "08_batched_heads to 09_keep": {
        "docstring": "changed",
        "imports": "changed",
        "CHECKPOINT": "new",  # where the checkpoint is
        "Config": "changed",  # sampling, checkpoint, resume
        "Config.__post_init__": "changed",
        "SAMPLING": "new",  # settings that --sample heeds
        "SHAPE": "new",
        "LanguageModel.generate": "changed",  # temperature, top_k
        "hold_ctrl_c": "new",  # until a step is taken
        "must_agree": "new",
        "generators": "new",
        "save": "new",
        "load": "new",
        "resume": "new",
        "train": "changed",
        "main": "changed",  # --sample
        "parse_args": "changed",  # switches; what --sample has no use for
    },
    "09_keep to 10_fast": {
        "docstring": "changed",
        "Config": "changed",  # --float32, --compile
        "MultiHeadAttention.forward": "changed",  # fused on cuda
        "autocast": "new",
        "estimate_loss": "changed",  # inside autocast
        "train": "changed",  # inside autocast, compiled, copies that do not wait
        "main": "changed",  # whether --compile works here
    },
    "10_fast to 11_recipe": {
        "docstring": "changed",
        "Config": "changed",  # learning rate, warm-up, weight decay
        "Config.__post_init__": "changed",
        "LAPTOP": "changed",
        "schedule": "new",
        "train": "changed",
    },
    "11_recipe to 12_rotary": {
        "docstring": "changed",
        "Config.__post_init__": "changed",  # pairs of features
        "Rotary": "new",
        "MultiHeadAttention.__init__": "changed",
        "MultiHeadAttention.forward": "changed",
        "LanguageModel.__init__": "changed",  # no position embedding
        "LanguageModel.forward": "changed",
    },
    "12_rotary to 13_modern": {
        "docstring": "changed",
        "MultiHeadAttention.forward": "changed",  # queries and keys normalised
        "FeedForward": "changed",  # gated
        "FeedForward.__init__": "changed",
        "FeedForward.forward": "changed",
        "LanguageModel.__init__": "changed",  # projections that start at zero
    },
    "13_modern to 14_muon": {
        "docstring": "changed",
        "Config": "changed",  # one rate for both
        "LAPTOP": "changed",  # and a higher one
        "orthogonal": "new",
        "muon": "new",
        "stacks_of": "new",
        "train": "changed",
    },
    "08_batched_heads to ex2_addition": {
        "docstring": "changed",
        "imports": "changed",
        "MODELS": "new",  # where a model is kept
        "Config": "changed",  # digits in the place of a text; one size
        "Config.block_size": "new",  # follows from the digits
        "Config.__post_init__": "changed",
        "LAPTOP": "gone",
        "LanguageModel.generate": "changed",  # the likeliest character
        "Corpus": "new",  # of problems: the methods that that of common/ has
        "answers": "new",
        "test": "new",
        "save": "new",
        "load": "new",
        "main": "changed",
        "parse_args": "changed",  # switches; one size
    },
    "09_keep to ex3_finetune": {
        "docstring": "changed",
        "imports": "changed",
        "MANUAL": "new",  # a text to pretrain on without a network
        "Config": "changed",  # the large text; the steps on it, and those of fine-tuning
        "Config.__post_init__": "changed",
        "LAPTOP": "changed",
        "PASSAGE": "new",
        "estimate_loss": "changed",  # over all of the validation split
        "load": "changed",  # the losses on the way
        "resume": "changed",
        "train": "changed",
        "write_manual": "new",
        "shared_passage": "new",
        "load_large": "new",
        "compare": "new",
        "main": "changed",
    },
    "14_muon to 15_cache": {
        "docstring": "changed",
        "Rotary.__init__": "changed",  # positions without end
        "Rotary.forward": "changed",
        "Cache": "new",
        "MultiHeadAttention.forward": "changed",
        "Block.forward": "changed",  # hands it on
        "LanguageModel.forward": "changed",
        "LanguageModel.generate": "changed",
    },
    "15_cache to 16_many": {
        "docstring": "changed",
        "imports": "changed",
        "RANK": "new",
        "PROCESSES": "new",
        "RUN": "new",
        "Config.__post_init__": "changed",  # batches that the processes divide
        "total": "new",
        "estimate_loss": "changed",  # shared
        "save": "changed",  # which run it is
        "hold_ctrl_c": "changed",
        "train": "changed",
        "join": "new",
        "main": "changed",
        "__main__": "changed",  # who prints
    },
}

# How many lines may come and go at most, as git counts them.
CHANGED_LINES = {
    "01_bigram to 02_self_attention": (43, 14),
    "02_self_attention to 03_multihead": (24, 9),
    "03_multihead to 04_feedforward": (24, 8),
    "04_feedforward to 05_blocks": (25, 12),
    "05_blocks to 06_residual_layernorm": (21, 13),
    "06_residual_layernorm to 07_full_gpt": (40, 20),
    "07_full_gpt to 08_batched_heads": (16, 26),
    "08_batched_heads to 09_keep": (170, 20),
    "09_keep to 10_fast": (40, 10),
    "10_fast to 11_recipe": (24, 10),
    "11_recipe to 12_rotary": (28, 8),
    "12_rotary to 13_modern": (24, 20),
    "13_modern to 14_muon": (58, 13),
    "08_batched_heads to ex2_addition": (175, 55),
    "09_keep to ex3_finetune": (147, 25),
    "14_muon to 15_cache": (52, 26),
    "15_cache to 16_many": (85, 13),
}

ORDER = (
    "docstring imports Config Head MultiHeadAttention FeedForward Block LanguageModel "
    "estimate_loss train main parse_args __main__"
).split()
ALWAYS = set(ORDER) - {"Head", "MultiHeadAttention", "FeedForward", "Block"}


def name_of(node):
    match node:
        case ast.Expr(ast.Constant()):
            return "docstring"
        case ast.Assign(targets=[target]) | ast.AugAssign(target=target):
            return target.id
        case ast.ClassDef() | ast.FunctionDef():
            return node.name
    return "imports"  # and what else stands among them


def parts_of(script):
    """The parts of a script in their order, by name: all its text, comments and blank lines too."""
    source = ALL[script].read_text(encoding="utf-8")
    lines = source.splitlines(keepends=True)
    parts, start = {}, 0

    def add(name, end):
        nonlocal start
        parts[name] = parts.get(name, "") + "".join(lines[start:end])
        start = end

    *body, last = ast.parse(source).body
    for node in body:
        if isinstance(node, ast.ClassDef):
            for method in (n for n in node.body if isinstance(n, ast.FunctionDef)):
                first = min([method.lineno, *(d.lineno for d in method.decorator_list)])
                while lines[first - 2].lstrip().startswith("#"):
                    first -= 1
                if node.name not in parts:
                    add(node.name, first - 1)
                add(f"{node.name}.{method.name}", method.end_lineno)
        add(name_of(node), node.end_lineno)
    assert isinstance(last, ast.If)
    add("__main__", last.end_lineno)
    assert "".join(parts.values()) == source
    return {name: text for name, text in parts.items() if text}


PARTS = {script: parts_of(script) for script in ALL}


def top_level(script):
    return [name for name in PARTS[script] if "." not in name]


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


def test_every_step_but_the_first_extends_one_above_it():
    assert [name for name, row in TABLE.items() if "extends" not in row] == SCRIPTS[:1]
    for old, new in PAIRS:
        assert new in EXERCISES or SCRIPTS.index(old) < SCRIPTS.index(new)
    assert all(FILES[name].stem == name for name in SCRIPTS)
    scripts = {p for folder in (ROOT, ROOT / "beyond") for p in folder.glob("[0-9][0-9]_*.py")}
    assert set(FILES.values()) == scripts
    assert set(ALL.values()) - scripts == set((ROOT / "exercises").glob("*.py"))


@pytest.mark.parametrize(("old", "new"), PAIRS)
def test_a_step_differs_where_the_idea_is_and_nowhere_else(old, new):
    assert differences(old, new) == WHAT_DIFFERS[f"{old} to {new}"]


@pytest.mark.parametrize(("old", "new"), PAIRS)
def test_lines_that_stay_keep_their_order(old, new):
    common = [name for name in PARTS[old] if name in PARTS[new]]
    assert common == [name for name in PARTS[new] if name in PARTS[old]]


@pytest.mark.skipif(not shutil.which("git"), reason="needs git")
@pytest.mark.parametrize(("old", "new"), PAIRS)
def test_diffs_are_small(old, new):
    command = ["git", "diff", "--no-index", "--numstat", str(ALL[old]), str(ALL[new])]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout
    added, removed = map(int, printed.split()[:2])
    most = CHANGED_LINES[f"{old} to {new}"]
    assert added <= most[0]
    assert removed <= most[1]


@pytest.mark.parametrize("script", ALL)
def test_parts_stand_in_the_same_order_in_every_script(script):
    names = top_level(script)
    assert [name for name in names if name in ORDER] == [name for name in ORDER if name in names]
    assert set(names) >= ALWAYS


@pytest.mark.parametrize(("old", "new"), PAIRS)
def test_what_is_new_stands_directly_above_what_uses_it(old, new):
    """Between a new class or function and the first to use it there is nothing but what is new."""
    names = top_level(new)
    for i, name in enumerate(names):
        if name in PARTS[old] or name.isupper():  # a constant stands at the top
            continue
        users = list(itertools.takewhile(lambda n: n not in PARTS[old], names[i + 1 :]))
        users.append(names[i + 1 + len(users)])
        texts = [text for part, text in PARTS[new].items() if part.split(".")[0] in users]
        assert any(re.search(rf"\b{name}[(,]|: {name}\b", text) for text in texts), name
        assert any(re.search(rf"\b{name}\b", text) for text in texts), name


# --- What is shared ---


def imported_modules(file):
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module, alias.name) for alias in node.names)


def requirements(folder=ROOT):
    lines = (folder / "requirements.txt").read_text(encoding="utf-8").splitlines()
    lines = [line.split("#")[0].strip() for line in lines]
    return [Requirement(line) for line in lines if line and not line.startswith("-r ")]


@pytest.mark.parametrize("script", ALL)
def test_scripts_share_only_data_and_device(script):
    packages = {requirement.name for requirement in requirements()}
    for module, name in imported_modules(ALL[script]):
        top = module.split(".")[0]
        if top == "common":
            assert (module, name) in {
                ("common.data", "TINY_SHAKESPEARE"),
                ("common.data", "Corpus"),
                ("common.data", "Vocabulary"),
                ("common.data", "load_corpus"),
                ("common.device", "select_device"),
            }
        else:
            assert top in sys.stdlib_module_names or top in packages


@pytest.mark.parametrize("file", sorted((ROOT / "common").glob("*.py")), ids=lambda f: f.stem)
def test_nothing_that_a_step_teaches_is_shared(file):
    tree = ast.parse(file.read_text(encoding="utf-8"))
    names = {word for pair in imported_modules(file) for word in pair if word}
    names |= {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    taught = r"torch\.(nn|optim|autocast|amp|compile|bfloat16|save|load)\b|argparse|signal|F\."
    assert [name for name in names if re.match(taught, name)] == []


# Python, system, processor: where the steps may be run.
MACHINES = list(
    itertools.product(
        ("3.11", "3.12", "3.13", "3.14", "3.15", "3.16"),
        (
            ("linux", "Linux", "x86_64"),
            ("linux", "Linux", "aarch64"),
            ("darwin", "Darwin", "arm64"),
            ("darwin", "Darwin", "x86_64"),
            ("win32", "Windows", "AMD64"),
        ),
    )
)


def test_requirements_are_pinned_where_pins_are_known_to_work():
    """Each package has one line for each machine: exact, or from a version on for newer Pythons."""
    packages = {requirement.name for requirement in requirements()}
    assert packages == {"torch", "numpy", "requests", "tqdm"}
    for python, (platform, system, processor) in MACHINES:
        machine = {
            "python_version": python,
            "python_full_version": f"{python}.0",
            "sys_platform": platform,
            "platform_system": system,
            "platform_machine": processor,
        }
        fitting = [r for r in requirements() if not r.marker or r.marker.evaluate(machine)]
        assert sorted(r.name for r in fitting) == sorted(packages), machine
        for requirement in fitting:
            kinds = {specifier.operator for specifier in requirement.specifier}
            newer = tuple(map(int, python.split("."))) >= (3, 15)
            assert kinds == {"=="} or (newer and kinds == {">="}), (machine, requirement)


@pytest.mark.parametrize("folder", ["docs", "tests"])
def test_what_the_tests_and_the_docs_need_is_pinned(folder):
    for requirement in requirements(ROOT / folder):
        kinds = {specifier.operator for specifier in requirement.specifier}
        assert kinds == {"=="} or (kinds == {">="} and requirement.marker)
