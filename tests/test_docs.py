"""The pages are what the scripts and the measurements make them, and so are numbers elsewhere."""

import json
import re
import shutil
import sys

import numpy as np
import pytest
import torch
from conftest import CPU, ROOT, TABLE, load

from common.data import TINY_SHAKESPEARE, load_corpus

sys.path.insert(0, str(ROOT / "docs" / "source"))
for package in ("jinja2", "pygments", "latex2mathml", "matplotlib"):
    pytest.importorskip(package, reason="needs docs/requirements.txt")
import build  # noqa: E402
import export  # noqa: E402

pytestmark = pytest.mark.slow
DOCS = ROOT / "docs"
LOSSES = build.RESULTS / "losses.json"
RESULTS = json.loads(LOSSES.read_text(encoding="utf-8"))["steps"] if LOSSES.exists() else {}
VIDEO = [name for name, row in TABLE.items() if row["kind"] == "step"]
LESSONS = [name for name, row in TABLE.items() if row["kind"] == "lesson"]
git = pytest.mark.skipif(not shutil.which("git"), reason="needs git")
measured = pytest.mark.skipif(not RESULTS, reason="needs measure/results/losses.json")


# --- What is committed ---


@git
def test_what_is_generated_is_up_to_date_and_the_same_each_time():
    built = build.build()
    for path, text in built.items():
        same = path.read_text(encoding="utf-8") == text
        assert same, f"{path.name} is old: run python docs/source/build.py"
    assert build.build() == built


@pytest.mark.parametrize("page", ["index.html", "beyond.html"])
def test_a_page_needs_nothing_but_itself_and_links_stay_in_the_folder(page):
    text = (DOCS / page).read_text(encoding="utf-8")
    assert len(text.encode()) < 900_000
    assert not re.search("{{|{%", text)  # of the template
    assert not re.search(r'src="|@import|<link (?!rel="icon" href="data:)|url\((?!#)', text)
    for href in re.findall(r'href="([^"]*)"', re.sub("<script.*?</script>", "", text, flags=re.S)):
        if re.match("https:|data:", href):
            continue
        name, _, place = href.partition("#")
        target = DOCS / (name or page)
        assert target.parent == DOCS, href  # also where docs/ is the root of a site
        assert target.exists(), href
        if "=" in place:  # a moment of the race, which test_live.py opens
            continue
        assert not place or f'id="{place}"' in target.read_text(encoding="utf-8"), href


@measured
@pytest.mark.parametrize("page", ["index.html", "beyond.html"])
def test_pictures_follow_the_page_into_the_dark_and_leave_the_rest_of_it_alone(page):
    text = (DOCS / page).read_text(encoding="utf-8")
    text = re.sub("<script.*?</script>", "", text, flags=re.S)
    pictures = re.findall(r"<svg viewBox.*?</svg>", text, flags=re.S)
    assert pictures
    for picture in pictures:
        assert "var(--ink)" in picture
        assert not re.search(r"#[0-9a-f]{6}\b|<style", picture)
        # Coordinates are rounded, and what a reader reads is not.
        assert not re.search(r' (?:d|x|y)="[^"]*\d\.\d\d', picture)
    losses = [f">{RESULTS[name]['val_loss']:.2f}<" for name in VIDEO]
    ladder = next((one for one in pictures if 'class="ladder"' in one), "")
    assert page != "index.html" or all(loss in ladder for loss in losses)
    places = re.findall(r' id="([^"]*)"', text)
    assert len(places) == len(set(places))


@measured
@pytest.mark.parametrize("name", [*VIDEO, *LESSONS])
def test_docstring_and_readme_name_the_measured_loss(name):
    loss = f"{RESULTS[name]['val_loss']:.2f}"
    said = re.findall(r"val loss near (\d\.\d\d)", load(name).__doc__.replace("\n", " "))
    assert said == [loss] or name in LESSONS and not said
    if name in VIDEO:
        text = (ROOT / "README.md").read_text(encoding="utf-8")
        shown = "the same file" if name == VIDEO[1] else f"]({TABLE[name]['file']})"
        (row,) = (row for row in text.splitlines() if row.startswith("| ") and shown in row)
        assert row.endswith(f"| {loss} |")


@measured
@pytest.mark.parametrize("name", [name for name in TABLE if "try" in TABLE[name]])
def test_docstrings_name_the_experiment_and_what_it_gave(name):
    found = RESULTS[name]["try"]
    said = load(name).__doc__.replace("\n", " ").split("Try ")[1]
    assert found["flags"] == TABLE[name]["try"]
    assert said.startswith(found["flags"])
    assert f"{found['val_loss']:.2f}" in said


# --- How it is made ---


@pytest.mark.parametrize("name", ["01_bigram", "06_residual_layernorm", "07_full_gpt"])
def test_a_saved_model_is_packed_to_16_bits_and_unpacked(name, tmp_path, monkeypatch):
    step, monkey = load(name), monkeypatch.setattr
    size = ["--size", "laptop"] if name == export.BESIDE else []
    tokenizer = export.CharTokenizer("\n abcdefgh")
    model = step.LanguageModel(step.parse_args(["--device", "cpu", *size]), tokenizer.vocab_size)
    torch.save(model.state_dict(), tmp_path / f"{name}.pt")
    monkey(export, "MODELS", tmp_path)
    entry = export.export(name, tokenizer, 1.0)
    exact = dict(model.named_parameters())  # without the masks, which are no weights
    assert entry["shapes"].keys() == exact.keys()
    for key, weight in export.unpack(entry).items():
        unit = exact[key].abs().amax(dim=-1, keepdim=True) / 32767
        assert ((weight - exact[key]).abs() <= 0.51 * unit).all()
    without_proof = {key: value for key, value in entry.items() if key != "proof"}
    assert export.from_script(export.script(name, entry)) == without_proof


@measured
@pytest.mark.parametrize("name", VIDEO)
def test_the_weights_of_the_page_are_those_of_the_measured_run(name):
    kept = json.loads(export.WEIGHTS.read_text(encoding="utf-8"))
    entry = kept["steps"][name]
    if name == export.BESIDE:
        entry |= export.from_script((DOCS / f"{name}.js").read_text(encoding="utf-8"))
    loss = RESULTS[name]["runs"][0]["val_loss"]
    assert entry["made_from"].endswith(f"val loss {loss:.4f}")
    if not TINY_SHAKESPEARE.exists():
        pytest.skip("needs data/input.txt")
    step, corpus = load(name), load_corpus(TINY_SHAKESPEARE, CPU, seed=0)
    config = step.Config(**entry["config"])
    model = step.LanguageModel(config, len(kept["chars"])).eval()
    model.load_state_dict(export.unpack(entry), strict=False)
    with torch.no_grad():
        x, y = corpus.batch("val", 400, config.block_size)
        assert model(x, y)[1].item() == pytest.approx(loss, abs=0.06)
        logits = np.array(export.proof(model, corpus.tokenizer, config.block_size))
    assert np.abs(logits - np.array(entry["proof"])).max() < 1e-2  # what rounding may change
