"""The walkthrough: it is what the scripts and the measurements make it, and works in a browser."""

import json
import re
import shutil
import statistics
import subprocess
import sys

import pytest
import torch
from conftest import FILES, ROOT, SAMPLE, SCRIPTS, STEPS, TABLE, run, small_flags, small_model

sys.path.insert(0, str(ROOT / "docs"))
reason = "needs docs/requirements.txt"
for package in ("matplotlib", "jinja2", "pygments", "latex2mathml"):
    pytest.importorskip(package, reason=reason)
import attention  # noqa: E402
import build  # noqa: E402
import measure  # noqa: E402

pytestmark = pytest.mark.slow
RESULTS = json.loads((ROOT / "docs" / "results.json").read_text(encoding="utf-8"))
PAGE = ROOT / "docs" / "index.html"
BEYOND = ROOT / "docs" / "beyond.html"
README = (ROOT / "README.md").read_text(encoding="utf-8")
VIDEO = [name for name, row in TABLE.items() if "/" not in row["file"]]  # the seven
SEVERAL = [name for name in SCRIPTS if name < "09"]  # measured with several seeds
NUMBER = re.compile(r"\d+(?:\.\d+)?")
git = pytest.mark.skipif(not shutil.which("git"), reason="needs git")


# --- What is committed ---


@git
def test_page_ladder_and_readme_are_up_to_date():
    for path, text in build.build().items():
        committed = path.read_text(encoding="utf-8")
        old = f"{path.name} is old: run python docs/build.py"
        assert NUMBER.split(committed) == NUMBER.split(text), old
        # another processor may round a coordinate of a picture the other way
        pairs = zip(NUMBER.findall(committed), NUMBER.findall(text), strict=True)
        assert all(a == b or abs(float(a) - float(b)) < 0.015 for a, b in pairs), old


@pytest.mark.parametrize("file", [PAGE, BEYOND])
def test_the_page_is_one_small_file(file):
    text = file.read_text(encoding="utf-8")
    assert len(text.encode()) < 1_200_000
    assert not re.search(r'src="|@import|<link (?!rel="icon" href="data:)', text)
    assert not re.findall(r"url\((?!#)", text)


def loss(name):
    return f"{RESULTS['steps'][name]['val_loss']:.2f}"


@pytest.mark.parametrize("name", [name for name in SCRIPTS if name < "15"])
def test_docstring_table_and_page_name_the_same_loss(name):
    same = "08_batched_heads" if name in ("09_keep", "10_fast") else name  # as good as the same
    said = STEPS[SCRIPTS.index(name)].__doc__.replace("\n", " ")
    if name >= "07":
        said = re.search(
            rf"near (\d\.\d\d) at (?:the )?{RESULTS['steps'][same]['size']} size", said
        )
    else:
        said = re.search(r"Expect a val loss near (\d\.\d\d)", said)
    assert said[1] == loss(same)
    if name in SEVERAL:
        row = re.search(rf"^\| \[{TABLE[name]['file']}\]\S*.*\|$", README, flags=re.M)[0]
        assert row.split(" | ")[2] == loss(name)
        page = (PAGE if name in VIDEO else BEYOND).read_text(encoding="utf-8")
        section = page.split(f'<section id="step-{SCRIPTS.index(name) + 1}"')[1]
        assert re.search(r"<dt>val loss</dt><dd>(\S+)", section)[1] == loss(name)


def test_losses_that_a_docstring_compares_are_those_of_their_steps():
    for name, step in zip(SCRIPTS[1:6], STEPS[1:6], strict=True):
        said = re.findall(r"(?<!\d)\d\.\d\d(?!\d)", step.__doc__.split("Expect")[1])
        assert said == [loss(name), loss(TABLE[name]["extends"])]


@pytest.mark.skipif(RESULTS["machine"]["gpu"] is not None, reason="measured on a GPU")
def test_step_9_trains_as_step_8_does():
    (one,) = RESULTS["steps"]["09_keep"]["runs"]
    (same,) = (r for r in RESULTS["steps"]["08_batched_heads"]["runs"] if r["seed"] == one["seed"])
    assert one["curve"] == same["curve"]


def test_what_readme_and_page_say_of_the_losses_was_measured():
    """Sentences that hold only as long as the losses keep their order."""
    losses = [RESULTS["steps"][name]["val_loss"] for name in VIDEO]
    one, two, three, four, five, six, _ = losses
    assert one > two > three > four  # "down to step 4"
    assert five > four > six  # "worse than step 4", "better than both"
    assert five - six > max(one - two, two - three, three - four)  # "the largest gain so far"
    parameters = [RESULTS["steps"][name]["parameters"] for name in VIDEO]
    assert parameters[1] == parameters[2]  # "The number of parameters stays the same"


def test_what_the_readme_says_of_the_sizes_is_so():
    said = re.search(r"at width (\d+) and context (\d+),\s+without\s+dropout", README)
    laptop = STEPS[6].LAPTOP
    assert [int(said[1]), int(said[2]), 0] == [
        laptop[k] for k in ("n_embd", "block_size", "dropout")
    ]
    assert STEPS[6].Config.n_layer == 6  # "the same six layers"
    assert "n_layer" not in laptop
    assert f"The video reports a val loss of {build.IN_THE_VIDEO['07_full_gpt']}." in README
    assert "`GOMP_SPINCOUNT=3000`" in README
    for name in SCRIPTS[6:]:
        assert '"GOMP_SPINCOUNT", "3000"' in FILES[name].read_text(encoding="utf-8")


def test_what_the_readme_says_of_waiting_was_measured():
    """No time to spin costs time on a quiet machine, the default costs it on a busy one."""
    if not RESULTS["waiting"]:
        pytest.skip("not measured: not on Linux")
    ms = {
        way: {state: statistics.mean(times) for state, times in states.items()}
        for way, states in RESULTS["waiting"].items()
    }
    ours, default, passive = (ms[f"GOMP_SPINCOUNT={n}"] for n in (3000, 300000, 0))
    assert ours["busy"] < default["busy"]
    assert ours["quiet"] < passive["quiet"]


def test_results_have_three_seeds_and_whole_curves():
    assert list(RESULTS["steps"]) == [name for name in SCRIPTS if name not in measure.AS_BEFORE]
    for name, step in RESULTS["steps"].items():
        script = STEPS[SCRIPTS.index(name)]
        assert len({run["seed"] for run in step["runs"]}) == (3 if name in SEVERAL else 1)
        size = ["--size", step["size"]] if "size" in step else []
        config = script.parse_args(size)
        for one in step["runs"]:
            steps = [point[0] for point in one["curve"]]
            assert steps == list(range(0, config.max_iters + 1, config.eval_interval))
        finals = [run["curve"][-1][2] for run in step["runs"]]
        assert (step["lowest"], step["highest"]) == (min(finals), max(finals))
        assert step["val_loss"] == pytest.approx(sum(finals) / len(finals), abs=1e-4)


@pytest.mark.parametrize("name", ["05_blocks", "06_residual_layernorm"])
def test_gradients_are_as_the_page_has_them(name):
    if not measure.TINY_SHAKESPEARE.exists():
        pytest.skip("needs data/input.txt")
    found = measure.gradients(name, range(1337, 1339))
    assert found == pytest.approx(RESULTS["gradients"][name][:2], abs=0.01)
    if name == "05_blocks":  # "depth alone trains badly"
        assert max(RESULTS["gradients"][name]) < 0.5
    else:  # "passes the gradient on"
        assert min(RESULTS["gradients"][name]) > 0.5


# --- Where it comes from ---


def test_measure_reads_what_a_script_prints():
    printed = measure.run(
        "01_bigram.py", "--data", "data/sample.txt", "--max-iters", 3, "--eval-interval", 2,
        "--eval-iters", 2, "--max-new-tokens", 30, "--device", "cpu",
    )  # fmt: skip
    found = measure.parse(printed)
    assert found["device"] == "cpu"
    assert f"{found['parameters']:,} parameters on cpu\n" in printed
    assert [point[0] for point in found["curve"]] == [0, 2, 3]
    step, train, val = found["curve"][-1]
    assert f"step {step}: train loss {train:.4f}, val loss {val:.4f}\n{found['sample']}" in printed


def test_measure_passes_on_what_a_script_says_is_wrong():
    with pytest.raises(SystemExit, match="does not exist"):
        measure.run("01_bigram.py", "--data", "nowhere.txt")


TINY = {"max_iters": 2, "eval_interval": 1, "eval_iters": 1, "eval_batch_size": 1}
TINY |= {"batch_size": 4, "block_size": 16, "max_new_tokens": 4, "data": SAMPLE}


def test_some_steps_are_measured_again_and_the_others_stay(monkeypatch):
    flags = [w for k, v in TINY.items() for w in ("--" + k.replace("_", "-"), v)]
    monkeypatch.setattr(measure, "TEXT", "A:\nabcd\n\nB:\nabc")  # a text that the model takes
    old = {key: RESULTS[key] for key in RESULTS}
    new = measure.measure_all(["01_bigram", "09_keep"], old, *flags)
    assert list(new["steps"]) == list(RESULTS["steps"])
    for name in RESULTS["steps"]:
        changed = name in ("01_bigram", "09_keep")
        assert (new["steps"][name] == RESULTS["steps"][name]) is not changed
    assert [run["seed"] for run in new["steps"]["01_bigram"]["runs"]] == [1337, 1338, 1339]
    finals = [run["curve"][-1][2] for run in new["steps"]["01_bigram"]["runs"]]
    assert new["steps"]["01_bigram"]["val_loss"] == round(statistics.mean(finals), 4)
    assert new["sample"]["text"].startswith("ROMEO:")
    assert set(new["attention"]["heads"]) == {"wide", "back", "speaker"}
    assert new["waiting"] == RESULTS["waiting"]


def test_measure_knows_its_steps():
    done = run(ROOT / "docs" / "measure.py", "17_nothing")
    assert done.returncode
    assert "no step 17_nothing; there are 01_bigram, " in done.stderr


def test_two_steps_are_compared():
    found = measure.compare("07_full_gpt", "08_batched_heads", "--rounds", 2, "--turn", 1)
    assert set(found) == {"trains", "samples"}
    assert all(ratio > 0 for ratio in found.values())
    words = "python benchmarks/throughput.py 07_full_gpt 08_batched_heads --size laptop\n"
    assert words in README  # how a reader does the same


def test_sampling_is_measured_against_steps_14_and_7():
    (size,) = found = measure.sampling(rounds=1, sizes=("laptop",))
    assert size == "laptop"
    assert found[size]["characters"].keys() == {"07_full_gpt", "14_muon", "15_cache"}
    assert found[size]["times"].keys() == {"07_full_gpt", "14_muon"}
    assert found[size]["reads"] > 0
    assert found[size]["memory"] > 0


def test_the_time_of_a_step_of_step_7_is_measured():
    if not measure.TINY_SHAKESPEARE.exists():
        pytest.skip("needs data/input.txt")
    assert float(measure.run("-c", measure.TIME_STEPS.format(steps=1))) > 0


def test_labels_keep_their_distance_and_their_order():
    heights = [10.0, 11.0, 40.0, 10.5, 100.0, 44.0]
    moved = build.apart(heights, 8)
    order = sorted(range(6), key=heights.__getitem__)
    places = [moved[i] for i in order]
    assert all(b - a >= 8 - 1e-9 for a, b in zip(places, places[1:], strict=False))
    assert moved[4] == 100
    assert build.apart([1.0, 20.0], 8) == [1, 20]
    assert build.apart([3.0, 3.0], 8) == [-1, 7]


def test_pictures_are_outlines():
    boxes = build.nested("a\n+ b\n    c\n    + d\n        e\nf\n")
    assert [box["label"] for box in boxes] == ["a", "b", "f"]
    assert [box["new"] for box in boxes] == [False, True, False]
    assert [box["label"] for box in boxes[1]["boxes"]] == ["c", "d"]
    assert [box["label"] for box in boxes[1]["boxes"][1]["boxes"]] == ["e"]


@git
def test_a_line_that_is_not_new_is_no_key():
    old, new = (TABLE[name]["file"] for name in SCRIPTS[4:6])
    hunks = build.changes(old, new)
    step = {"file": new, "hunks": hunks, "key": "x = x + self.attention(self.norm1(x))"}
    assert build.find_key(step) > 1
    with pytest.raises(ValueError, match="no new line 'import math'"):
        build.find_key(step | {"key": "import math"})


# --- Attention ---


@pytest.mark.parametrize("step", [STEPS[5], STEPS[7]])
def test_attention_weights_are_those_of_the_model(step):
    model = small_model(step)
    tokens = list(range(8))
    weights = attention.attention_weights(model, tokens)
    assert weights.shape == (8, 8, 8)  # two layers of four heads
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(8, 8))
    assert torch.equal(weights.triu(1), torch.zeros(8, 8, 8))

    x = model.token_embedding(torch.tensor(tokens)) + model.position_embedding.weight
    x = model.blocks[0].norm1(x)  # what the first layer attends to
    layer = model.blocks[0].attention
    for i in range(4):
        if step is STEPS[5]:
            q, k = layer.heads[i].query(x), layer.heads[i].key(x)
        else:  # all heads in one layer
            q, k = layer.qkv(x)[:, 8 * i : 8 * i + 8], layer.qkv(x)[:, 32 + 8 * i : 40 + 8 * i]
        scores = (q @ k.T / 8**0.5).masked_fill(torch.ones(8, 8).triu(1) == 1, -torch.inf)
        torch.testing.assert_close(weights[i], scores.softmax(dim=-1))
    names = attention.head_names(model, 8)
    assert names[0] == "layer 1, head 1"
    assert names[5] == "layer 2, head 2"


def test_attention_draws_every_head_of_a_short_run(tmp_path):
    picture = tmp_path / "heads.svg"
    flags = ("--step", 6, "--data", SAMPLE, "--max-iters", 1)
    flags += ("--text", "To be or\\nnot", "--output", picture)
    done = run(ROOT / "docs" / "attention.py", *flags)
    assert r"the model sees 8 characters: 'e or\nnot'" in done.stderr
    assert done.stdout.splitlines()[-1] == f"12 heads in {picture}"
    assert picture.read_text(encoding="utf-8").count("<!-- layer ") == 12


def test_attention_takes_the_checkpoint_of_step_9(tmp_path):
    flags = small_flags(STEPS[8], tmp_path, max_iters=1, n_layer=3)
    assert run(FILES["09_keep"], *flags).returncode == 0
    picture = tmp_path / "heads.svg"
    flags = ("--checkpoint", tmp_path / "model.pt", "--text", "To be or", "--output", picture)
    done = run(ROOT / "docs" / "attention.py", *flags)
    assert done.stdout == f"12 heads in {picture}\n"
    done = run(ROOT / "docs" / "attention.py", "--step", 9, "--checkpoint", tmp_path / "none.pt")
    assert done.returncode
    assert "none.pt" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_layer_is_a_row_and_titles_are_whole():
    weights = torch.eye(8).tolist()
    heads = {f"layer {i}, head {j}": weights for i in (1, 2, 3) for j in (1, 2, 3, 4)}
    figure = attention.draw(heads, "my lord!", columns=4)
    figure.draw_without_rendering()
    axes = [ax for ax in figure.axes if ax.get_title()]
    boxes = [ax.get_window_extent() for ax in axes]
    rows = [round(box.y0) for box in boxes]
    assert rows == sorted(rows, reverse=True)
    assert [len(set(rows[i : i + 4])) for i in (0, 4, 8)] == [1, 1, 1]
    assert len(set(rows)) == 3
    titles = [ax.title.get_window_extent() for ax in axes]
    assert all(a.x1 < b.x0 for a, b in zip(titles[:3], titles[1:4], strict=True))
    assert all(figure.bbox.x0 <= t.x0 and t.x1 <= figure.bbox.x1 for t in titles)
    assert all(t.y1 <= figure.bbox.y1 for t in titles)


# --- In a browser ---


@pytest.fixture
def page(browser):
    """The page in a browser, with what it said on the console and what it asked for."""
    page = browser.new_page(viewport={"width": 1200, "height": 900}, reduced_motion="reduce")
    page.noise = []
    page.on("console", lambda message: page.noise.append(message.text))
    page.on("pageerror", lambda error: page.noise.append(str(error)))
    page.on("request", lambda request: page.noise.append(request.url))
    page.goto(PAGE.as_uri())
    yield page
    page.close()


def open_page(page, file):
    """The names of the steps on that page by their numbers, once it is open."""
    page.goto(file.as_uri())
    names = [name for name in SCRIPTS if (name in VIDEO) == (file == PAGE)]
    return {SCRIPTS.index(name) + 1: name for name in names}


@git
@pytest.mark.parametrize("file", [PAGE, BEYOND])
def test_the_page_opens_and_shows_each_step(page, file):
    shown = open_page(page, file)
    assert page.noise == [PAGE.as_uri(), file.as_uri()]
    assert page.locator("section.step").count() == len(shown)
    for number, name in shown.items():
        row = TABLE[name]
        section = page.locator(f"#step-{number}")
        assert section.locator("math").count() == ("formula" in row)
        shows_curves = name not in build.AS_BEFORE
        assert section.locator("figure [role=img] svg").count() == shows_curves
        assert section.locator(".picture").count() == ("picture" in row)
        if "video" in row:
            assert "&t=" in section.locator("a[href^=https]").first.get_attribute("href")
        assert section.locator(".file .l").count() == len(
            FILES[name].read_text(encoding="utf-8").splitlines()
        )
        if "extends" in row:
            old = TABLE[row["extends"]]["file"]
            numbers = ["git", "diff", "--no-index", "--numstat", old, row["file"]]
            printed = subprocess.run(numbers, cwd=ROOT, capture_output=True, text=True).stdout
            added, removed = map(int, printed.split()[:2])
            assert section.locator(".diff ins").count() == added
            assert section.locator(".diff del").count() == removed
            assert section.locator(".code h3").inner_text().endswith(f"+{added} −{removed}")


def test_the_view_switches_by_keyboard(page):
    section = page.locator("#step-6")
    diff, file = section.locator(".diff"), section.locator(".file")
    assert diff.is_visible()
    assert not file.is_visible()
    section.locator(".learn .sample").focus()
    for _ in range(5):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "diff-6":
            break
    page.keyboard.press("ArrowRight")
    assert file.is_visible()
    assert not diff.is_visible()
    page.keyboard.press("ArrowLeft")
    assert diff.is_visible()


def test_a_link_to_a_line_works_again_and_back_is_harmless(page):
    sync_api = pytest.importorskip("playwright.sync_api")
    for _ in range(2):
        page.locator("#file-5").check()
        page.locator("a[href='#key-5']").click()
        sync_api.expect(page.locator("#key-5")).to_be_in_viewport()
    page.go_back()
    assert page.noise == [PAGE.as_uri()]


@pytest.mark.parametrize("file", [PAGE, BEYOND])
def test_the_tables_lead_to_the_line(page, file):
    sync_api = pytest.importorskip("playwright.sync_api")
    for number, name in open_page(page, file).items():
        row = TABLE[name]
        if number > 1:
            page.locator(f"#file-{number}").check()  # the other view, from which the link returns
        page.locator(f"a[href='#key-{number}']").click()
        line = page.locator(f"#key-{number}")
        sync_api.expect(line).to_be_in_viewport()
        assert line.inner_text().strip().startswith(row["key"])


@pytest.mark.parametrize("file", [PAGE, BEYOND])
@pytest.mark.parametrize(("scheme", "width"), [("light", 1200), ("dark", 380)])
def test_the_page_is_accessible(page, file, scheme, width):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe").Axe()
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    for number in list(open_page(page, file))[2::2]:  # the others with their changes
        page.locator(f"#file-{number}").check()
    found = axe.run(page)
    assert found.response["violations"] == [], found.generate_report()


@pytest.mark.parametrize("file", [PAGE, BEYOND])
@pytest.mark.parametrize("view", ["diff", "file"])
def test_the_page_fits_a_phone(page, file, view):
    page.set_viewport_size({"width": 380, "height": 800})
    for number, name in open_page(page, file).items():
        if "extends" not in TABLE[name]:
            continue
        page.locator(f"#{view}-{number}").check()
    assert page.evaluate("document.documentElement.scrollWidth") == 380
