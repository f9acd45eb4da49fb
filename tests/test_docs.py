"""The walkthrough: it is what the scripts and the measurements make it, and works in a browser."""

import itertools
import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, SCRIPTS, STEPS, run, small_model

sys.path.insert(0, str(ROOT / "docs"))
attention = pytest.importorskip("attention", reason="needs docs/requirements.txt")
build = pytest.importorskip("build", reason="needs docs/requirements.txt")
import measure  # noqa: E402

RESULTS = json.loads((ROOT / "docs" / "results.json").read_text(encoding="utf-8"))
PAGE = ROOT / "docs" / "index.html"
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))),
    None,
)
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


def test_the_page_is_one_small_file():
    text = PAGE.read_text(encoding="utf-8")
    assert len(text.encode()) < 1_000_000
    assert not re.search(r'src="|@import|<link (?!rel="icon" href="data:)', text)
    assert not re.findall(r"url\((?!#)", text)


def figures(text):
    """Numbers with a point, thousands, and those with a unit, as they stand in a text."""
    units = "s|seconds|minutes|hours|%"
    pattern = rf"(?<![\w.:])\d+(?:\.\d+)+|\d{{1,3}}(?:,\d{{3}})+(?!\d)|\d+ (?:{units})(?!\w)"
    return set(re.findall(pattern, text))


def test_figures_are_found_whole():
    text = "10,788,929 parameters, 2.49 in 3 s, 81 %, at 0:22:11, step 7, with C/4 and torch 2.13.0"
    assert figures(text) == {"10,788,929", "2.49", "3 s", "81 %", "2.13.0"}


def measured_figures():
    """Whatever results.json can stand behind, as the README and the page write it."""
    found = set()
    for step in RESULTS["steps"]:
        losses = [step[key] for key in ("val_loss", "lowest", "highest")]
        losses += [run["curve"][-1][2] for run in step["runs"]]
        found |= {f"{loss:.{digits}f}" for loss in losses for digits in (2, 3, 4)}
        found |= {f"{step['parameters']:,}", f"{step['seconds']} s"}
    for a, b in itertools.pairwise(RESULTS["steps"]):
        found.add(f"{abs(round(b['val_loss'], 2) - round(a['val_loss'], 2)):.2f}")
    for head in RESULTS["attention"]["heads"].values():
        found.add(f"{100 * head['score']:.0f} %")
    found |= {str(RESULTS["machine"][name]) for name in ("python", "torch", "numpy")}
    found |= {str(RESULTS["step_7_to_step_6"]["trains"])}
    found |= {str(RESULTS["steps"][6]["settings"]["dropout"])}
    if RESULTS["full_size_minutes"]:
        found.add(build.duration(RESULTS["full_size_minutes"]))
    return found


def test_every_figure_of_the_readme_was_measured_or_said_in_the_video():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    text = re.sub(r"```.*?```|`[^`]*`|\]\([^)]*\)", "", text, flags=re.DOTALL)
    others = {*build.SAID.values(), "3.11"}  # the Python that it takes
    assert figures(text) - measured_figures() - others == set()
    assert len(figures(text) & measured_figures()) > 20


def test_every_figure_of_the_page_was_measured_or_said_in_the_video():
    text = PAGE.read_text(encoding="utf-8")
    for tag in ("style", "script", "pre", "svg", "math", "code", "h3"):
        text = re.sub(rf"<{tag}\b.*?</{tag}>", "", text, flags=re.DOTALL)
    text = re.sub(r"<[^>]*>", " ", text)
    assert figures(text) - measured_figures() - set(build.SAID.values()) == set()
    assert len(figures(text) & measured_figures()) > 20


def test_scripts_say_what_loss_to_expect():
    finals = {step["script"]: step["runs"][0]["curve"][-1][2] for step in RESULTS["steps"]}
    for step in STEPS:
        said = re.search(r"Expect a val loss near (\d\.\d\d)", step.__doc__.replace("\n", " "))[1]
        if step is STEPS[6] and RESULTS["steps"][6]["size"] == "laptop":
            said = re.search(r"near (\d\.\d\d) at\s+the\s+laptop", step.__doc__)[1]
        assert float(said) == pytest.approx(finals[step.__name__], abs=0.01)


def test_the_page_tells_what_was_measured():
    """Sentences that hold only as long as the losses keep their order."""
    one, two, three, four, five, six, _ = (step["val_loss"] for step in RESULTS["steps"])
    assert one > two > three > four  # down to step 4
    assert five > four  # and then up
    assert five - six > max(one - two, two - three, three - four)  # the largest gain so far
    parameters = [step["parameters"] for step in RESULTS["steps"]]
    assert parameters[1] == parameters[2]  # several heads cost no parameter more


def test_results_have_three_seeds_and_whole_curves():
    assert [step["script"] for step in RESULTS["steps"]] == SCRIPTS
    for step, script in zip(RESULTS["steps"], STEPS, strict=True):
        assert len(step["runs"]) == (3 if step is not RESULTS["steps"][-1] else 1)
        size = ["--size", step["size"]] if "size" in step else []
        config = script.parse_args(size)
        assert len({run["seed"] for run in step["runs"]}) == len(step["runs"])
        for one in step["runs"]:
            steps = [point[0] for point in one["curve"]]
            assert steps == list(range(0, config.max_iters + 1, config.eval_interval))
        finals = [run["curve"][-1][2] for run in step["runs"]]
        assert (step["lowest"], step["highest"]) == (min(finals), max(finals))
        assert step["val_loss"] == pytest.approx(sum(finals) / len(finals), abs=1e-4)


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


def test_pictures_are_outlines():
    boxes = build.nested("a\n+ b\n    c\n    + d\n        e\nf\n")
    assert [box["label"] for box in boxes] == ["a", "b", "f"]
    assert [box["new"] for box in boxes] == [False, True, False]
    assert [box["label"] for box in boxes[1]["boxes"]] == ["c", "d"]
    assert [box["label"] for box in boxes[1]["boxes"][1]["boxes"]] == ["e"]


@git
def test_a_line_that_is_not_new_is_no_key():
    hunks = build.changes(SCRIPTS[4], SCRIPTS[5])
    step = {"script": SCRIPTS[5], "hunks": hunks, "key": "x = x + self.attention(self.norm1(x))"}
    assert build.find_key(step) > 1
    with pytest.raises(ValueError, match="no new line 'import math'"):
        build.find_key(step | {"key": "import math"})


# --- Attention ---


@pytest.mark.parametrize("step", [STEPS[5], STEPS[6]])
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
        else:
            q, k = layer.qkv(x)[:, 8 * i : 8 * i + 8], layer.qkv(x)[:, 32 + 8 * i : 40 + 8 * i]
        scores = (q @ k.T / 8**0.5).masked_fill(torch.ones(8, 8).triu(1) == 1, -torch.inf)
        torch.testing.assert_close(weights[i], scores.softmax(dim=-1))
    names = attention.head_names(model, 8)
    assert names[0] == "layer 1, head 1"
    assert names[5] == "layer 2, head 2"


def test_attention_draws_every_head_of_a_short_run(tmp_path):
    picture = tmp_path / "heads.svg"
    flags = ("--step", 6, "--data", ROOT / "data" / "sample.txt", "--max-iters", 1)
    flags += ("--text", "To be or\\nnot", "--output", picture)
    done = run(ROOT / "docs" / "attention.py", *flags)
    assert r"the model sees 8 characters: 'e or\nnot'" in done.stderr
    assert done.stdout.splitlines()[-1] == f"12 heads in {picture}"
    assert picture.read_text(encoding="utf-8").count("<!-- layer ") == 12


# --- In a browser ---


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    if not CHROMIUM:
        pytest.skip("there is no Chromium here to open the page in")
    root = hasattr(os, "geteuid") and os.geteuid() == 0  # who may not use the sandbox
    args = ["--no-sandbox"] if root else []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=args)
        yield browser
        browser.close()


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


@git
def test_the_page_opens_and_shows_each_step(page):
    assert page.noise == [PAGE.as_uri()]
    assert page.locator("section.step").count() == 7
    for number, script in enumerate(SCRIPTS, 1):
        section = page.locator(f"#step-{number}")
        assert section.locator("math").count() == 1
        assert section.locator("svg").count() == 1
        assert "&t=" in section.locator("a[href^=https]").first.get_attribute("href")
        assert section.locator(".file .l").count() == len(
            (ROOT / f"{script}.py").read_text(encoding="utf-8").splitlines()
        )
        if number > 1:
            numbers = ["git", "diff", "--no-index", "--numstat", f"{SCRIPTS[number - 2]}.py"]
            numbers.append(f"{script}.py")
            printed = subprocess.run(numbers, cwd=ROOT, capture_output=True, text=True).stdout
            added, removed = map(int, printed.split()[:2])
            assert section.locator(".diff ins").count() == added
            assert section.locator(".diff del").count() == removed
            assert section.locator("h3").first.inner_text().endswith(f"+{added} −{removed}")


def test_the_view_switches_by_keyboard(page):
    section = page.locator("#step-6")
    diff, file = section.locator(".diff"), section.locator(".file")
    assert diff.is_visible()
    assert not file.is_visible()
    section.locator("a").first.focus()
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


def test_the_ladder_leads_to_the_line(page):
    sync_api = pytest.importorskip("playwright.sync_api")
    sentences = build.tomllib.loads((ROOT / "docs" / "steps.toml").read_text("utf-8"))
    for number, script in enumerate(SCRIPTS, 1):
        if number > 1:
            page.locator(f"#file-{number}").check()  # the other view, from which the link returns
        page.locator(f"a[href='#key-{number}']").click()
        line = page.locator(f"#key-{number}")
        sync_api.expect(line).to_be_in_viewport()
        assert line.inner_text().strip().startswith(sentences[script]["key"])


@pytest.mark.parametrize(("scheme", "width"), [("light", 1200), ("dark", 380)])
def test_the_page_is_accessible(page, scheme, width):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe").Axe()
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    for number in (3, 5, 7):  # one half of the steps with their changes, the other with the file
        page.locator(f"#file-{number}").check()
    found = axe.run(page)
    assert found.response["violations"] == [], found.generate_report()


@pytest.mark.parametrize("view", ["diff", "file"])
def test_the_page_fits_a_phone(page, view):
    page.set_viewport_size({"width": 380, "height": 800})
    for number in range(2, 8):
        page.locator(f"#{view}-{number}").check()
    assert page.evaluate("document.documentElement.scrollWidth") == 380
