"""A step is its diff: docs/source/steps.toml says what it may change, and all else is the same.

A part is a function, a class, a constant or the imports, with the comments and blank lines above
it. Each method of a class is a part, too: "Head" in `changes` allows all of Head, "Head.forward"
this method alone. Docstrings of scripts always differ.
"""

import ast
import re

import pytest
from conftest import FILES, ROOT, TABLE


def name_of(node):
    match node:
        case ast.Expr(ast.Constant()):
            return "docstring"
        case ast.Assign(targets=[ast.Name(name)]) | ast.AnnAssign(target=ast.Name(name)):
            return name
        case ast.ClassDef(name) | ast.FunctionDef(name):
            return name
        case ast.If():
            return "__main__"
    return "imports"  # and what else stands among them


def parts_of(source):
    """All text of a script by the name of its part, in order."""
    lines, parts, done = source.splitlines(keepends=True), {}, 0

    def add(name, end):
        nonlocal done
        parts[name] = parts.get(name, "") + "".join(lines[done:end])
        done = end

    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef):
            for method in (n for n in node.body if isinstance(n, ast.FunctionDef)):
                if node.name not in parts:  # what stands above the first method
                    add(node.name, min(d.lineno for d in [method, *method.decorator_list]) - 1)
                add(f"{node.name}.{method.name}", method.end_lineno)
        add(name_of(node), node.end_lineno)
    assert "".join(parts.values()) == source
    return {name: text for name, text in parts.items() if text}


PARTS = {
    name: parts_of(file.read_text(encoding="utf-8"))
    for name, file in FILES.items()
    if file.is_file()
}
PAIRS = [(TABLE[name].get("extends"), name) for name in PARTS]
PAIRS = [(old, new) for old, new in PAIRS if old in PARTS]


def differing(old, new):
    """The parts that are not the same; of a class that one of the two lacks, its name alone."""
    for name in [*PARTS[old], *(PARTS[new].keys() - PARTS[old].keys())]:
        owner = name.split(".")[0]
        if PARTS[old].get(name) != PARTS[new].get(name):
            yield name if owner in PARTS[old] and owner in PARTS[new] else owner


def test_the_table_has_every_script_and_each_but_the_first_extends_one_above_it():
    patterns = ("[0-9][0-9]_*.py", "beyond/*.py", "exercises/*.py")
    assert {path for pattern in patterns for path in ROOT.glob(pattern)} == set(FILES.values())
    assert [file.stem for file in FILES.values()] == list(TABLE)
    above = []
    for name, row in TABLE.items():
        assert row.get("extends") in (above or [None]), name
        above.append(name)


@pytest.mark.parametrize(("old", "new"), PAIRS)
def test_a_script_differs_in_what_its_row_names_and_in_nothing_else(old, new):
    found = set(differing(old, new)) - {"docstring"}
    assert "changes" in TABLE[new], f"in docs/source/steps.toml, {new} lacks changes = {found}"
    allowed = set(TABLE[new]["changes"])
    assert {name for name in found if not {name, name.split(".")[0]} & allowed} == set()
    assert allowed <= found | {name.split(".")[0] for name in found}  # or it needs no word


@pytest.mark.parametrize(("old", "new"), PAIRS)
def test_what_both_have_stands_in_the_same_order(old, new):
    both = [name for name in PARTS[old] if name in PARTS[new]]
    assert both == [name for name in PARTS[new] if name in PARTS[old]]


@pytest.mark.parametrize(("old", "new"), PAIRS)
def test_what_is_new_stands_directly_above_what_uses_it(old, new):
    """Between a new class or function and the first to use it there is nothing but what is new."""
    names = [part for part in PARTS[new] if "." not in part]
    for i, name in enumerate(names):
        if name in PARTS[old] or name.isupper() or name == "__main__":  # constants stand at the top
            continue
        below = next(j for j, other in enumerate(names) if j > i and other in PARTS[old])
        users = names[i + 1 : below + 1]
        texts = [text for part, text in PARTS[new].items() if part.split(".")[0] in users]
        assert any(re.search(rf"\b{name}\b", text) for text in texts), name


@pytest.mark.parametrize("name", PARTS)
def test_scripts_share_data_and_device_and_nothing_of_each_other(name):
    for node in ast.walk(ast.parse("".join(PARTS[name].values()))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [getattr(node, "module", None) or alias.name for alias in node.names]
            for package, *rest in (module.split(".") for module in modules):
                assert package not in {"beyond", "exercises", "importlib", *TABLE}
                assert package != "common" or rest in ([], ["data"], ["device"], ["download"])
