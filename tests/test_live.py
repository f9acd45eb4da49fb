"""The pages in a browser: their models are the scripts' own, and a reader can work every part."""

import json
import shutil
import statistics
import subprocess

import pytest
import torch
import torch.nn.functional as F
from conftest import FILES, ROOT, TABLE, load
from test_docs import DOCS, LESSONS, RESULTS, VIDEO, export, git  # says what must be installed
from torch.overrides import TorchFunctionMode

pytestmark = pytest.mark.slow
PAGE, BEYOND = DOCS / "index.html", DOCS / "beyond.html"
KEPT = json.loads(export.WEIGHTS.read_text(encoding="utf-8"))
BESIDE = DOCS / f"{export.BESIDE}.js"
ENTRIES = KEPT["steps"] | {export.BESIDE: export.from_script(BESIDE.read_text(encoding="utf-8"))}
TOKENIZER = export.CharTokenizer(KEPT["chars"])
PHONE = {"width": 390, "height": 800}


class Watch(TorchFunctionMode):
    """While it is active, weights collects what softmax returns: the attention of each head."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func is F.softmax:
            self.weights.append(out[0])  # (T, T)
        return out


@torch.no_grad()
def read(model, tokens):
    """The logits (V,) after the tokens, and what each head looks at from the last: (heads, T)."""
    watch = Watch()
    watch.weights = []
    with watch:
        logits = model(torch.tensor([tokens]))[0][0, -1]
    return logits, [rows[-1] for rows in watch.weights]


def rounded(name):
    """The script's model with the page's weights, and the length of its context."""
    step, entry = load(name), ENTRIES[name]
    config = step.Config(**entry["config"])
    model = step.LanguageModel(config, TOKENIZER.vocab_size)
    missing, unexpected = model.load_state_dict(export.unpack(entry), strict=False)
    assert all(key.endswith("tril") for key in missing)
    assert not unexpected
    return model.eval(), config.block_size


@pytest.fixture
def open_page(browser):
    """Opens a page with these settings; at the end nothing but files was asked for, or said."""
    contexts, noise = [], []

    def open_it(file=PAGE, **settings):
        wide = {"viewport": {"width": 1200, "height": 900}, "reduced_motion": "reduce"}
        contexts.append(browser.new_context(**wide | settings))
        page = contexts[-1].new_page()
        page.on("console", lambda message: noise.append(message.text))
        page.on("pageerror", lambda error: noise.append(str(error)))
        page.on("request", lambda r: r.url.startswith("file:") or noise.append(r.url))
        page.goto(file.as_uri())
        return page

    open_it.noise = noise
    yield open_it
    for context in contexts:
        context.close()
    assert noise == []


@pytest.fixture
def page(open_page):
    return open_page()


def load_step_7(page):
    page.locator("#try-7 .load").click()
    page.locator("#try-7 .loaded").wait_for()


def type_in(page, text, number=6):
    page.locator(f"#line-{number}").fill(text)


def written(page, number=6):
    """What a step has written, once it waits."""
    page.locator(f"#try-{number} .write:enabled").wait_for()
    return page.locator(f"#try-{number} .written").inner_text()


# --- The models ---


@pytest.mark.parametrize("name", VIDEO)
def test_logits_and_attention_are_those_of_torch(page, name):
    if name == export.BESIDE:
        load_step_7(page)
    model, block_size = rounded(name)
    script = """([name, text]) => {
        const { tokens } = vocabulary.encode(text);
        const found = read(name, tokens.length ? tokens : [0]);
        return found.map(({ logits, weights }) => [[...logits], weights.map((row) => [...row])]);
    }"""
    for text in [*export.PROOF, KEPT["chars"]]:
        tokens = export.readable(text, TOKENIZER)
        found = page.evaluate(script, [name, text])
        assert len(found) == len(tokens)
        for i, (logits, weights) in enumerate(found):
            expected, rows = read(model, tokens[max(0, i + 1 - block_size) : i + 1])
            torch.testing.assert_close(torch.tensor(logits), expected, rtol=0, atol=1e-4)
            assert len(weights) == len(rows)
            for row, one in zip(weights, rows, strict=True):
                torch.testing.assert_close(torch.tensor(row).float(), one, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", VIDEO)
@pytest.mark.parametrize("length", [1, 100], ids="a prompt of {} characters".format)
def test_what_is_written_goes_on_from_the_last_block_size_characters(page, name, length):
    """The same random numbers, drawn from torch's probabilities after each window."""
    if name == export.BESIDE:
        load_step_7(page)
    model, block_size = rounded(name)
    tokens = TOKENIZER.encode(("To be, or not to be: that is the question. " * 3)[:length])
    random = [(0.37 + 0.618034 * i) % 1 for i in range(20)]
    script = """([name, tokens, random]) => {
        const numbers = [...random], next = () => numbers.shift();
        const writing = model(name).generate(tokens, 0.8, next);
        return random.map(() => writing.next().value);
    }"""
    found = page.evaluate(script, [name, tokens, random])
    for number in random:
        logits, _ = read(model, tokens[-block_size:])
        past = (logits.double() / 0.8).softmax(dim=0).cumsum(dim=0) > number
        tokens = [*tokens, past.tolist().index(True)]
    assert found == tokens[-len(random) :]


# --- What a page shows ---


@git
@pytest.mark.parametrize("file", [PAGE, BEYOND])
def test_a_page_shows_each_script_and_its_changes(open_page, file):
    page = open_page(file)
    rows = {name: row for name, row in TABLE.items() if (name in VIDEO) == (file == PAGE)}
    assert page.locator("section.step").count() == len(rows)
    for name, row in rows.items():
        number = list(TABLE).index(name) + 1 if name in RESULTS else name
        section = page.locator(f"#step-{number}")
        assert section.locator("math").count() == ("formula" in row)
        assert section.locator(".curves").count() == (name in RESULTS)
        assert section.locator(".picture").count() == ("picture" in row)
        lines = FILES[name].read_text(encoding="utf-8").splitlines()
        assert section.locator(".file .l").count() == len(lines)
        if "extends" in row:
            old = TABLE[row["extends"]]["file"]
            numbers = ["git", "diff", "--no-index", "--numstat", old, row["file"]]
            printed = subprocess.run(numbers, cwd=ROOT, capture_output=True, text=True).stdout
            added, removed = map(int, printed.split()[:2])
            assert section.locator(".diff ins").count() == added
            assert section.locator(".diff del").count() == removed
        if name in RESULTS:  # the table leads to the line, also where the whole file is shown
            if "extends" in row:
                section.locator("[value=file]").check()
            page.locator(f"a[href='#key-{number}']").click()
            line = page.locator(f"#key-{number}:visible")
            assert line.inner_text().strip().startswith(row["key"])


def test_the_view_switches_by_keyboard(page):
    diff, file = page.locator("#step-6 .diff"), page.locator("#step-6 .file")
    page.locator("#diff-6").focus()
    for key, shown, hidden in (("ArrowRight", file, diff), ("ArrowLeft", diff, file)):
        page.keyboard.press(key)
        assert shown.is_visible()
        assert not hidden.is_visible()


@pytest.mark.parametrize("file", [PAGE, BEYOND])
@pytest.mark.parametrize(
    "settings", [{}, {"color_scheme": "dark", "viewport": PHONE}], ids=["wide", "phone"]
)
def test_a_page_is_accessible_and_fits(open_page, file, settings):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe").Axe()
    page = open_page(file, **settings)
    for view in page.locator("[value=file]").all()[::2]:  # the others show their changes
        view.check()
    if file == PAGE:
        load_step_7(page)
        type_in(page, "Zounds, café! xQzj")
        page.locator("#try-6 .strip .cell").nth(9).click()
        page.locator("#try-6 .write").click()
        written(page)
    found = axe.run(page)
    assert found.response["violations"] == [], found.generate_report()
    width = page.viewport_size["width"]
    assert page.evaluate("document.documentElement.scrollWidth") == width
    small = page.evaluate("""() => {
        const out = []; // numbers and letters below 11 pixels
        for (const e of document.querySelectorAll("svg text, td, .look, .char")) {
            const { a, b } = e.getScreenCTM?.() ?? { a: 1, b: 0 };
            const size = parseFloat(getComputedStyle(e).fontSize) * Math.hypot(a, b);
            if (size < 10.9) out.push(`${e.textContent}: ${size.toFixed(1)}`);
        }
        return out;
    }""")
    assert small == []


def test_without_javascript_a_page_still_shows_the_steps(open_page):
    page = open_page(java_script_enabled=False)
    assert page.locator(".live:visible").count() == 0
    assert page.locator("section.step:visible").count() == len(VIDEO)
    assert page.locator("#step-6 .diff").is_visible()


def test_every_control_is_reached_by_keyboard(page):
    load_step_7(page)
    page.evaluate("document.activeElement.blur()")
    wanted = page.evaluate("""() => {
        const kinds = "button, input, textarea, a[href], [tabindex='0']";
        const seen = (e) => e.checkVisibility({ visibilityProperty: true }) && !e.disabled;
        const shown = [...document.querySelectorAll(kinds)].filter(seen);
        const one = shown.filter((e) => e.tabIndex >= 0 && !(e.type === "radio" && !e.checked));
        one.forEach((e, i) => (e.dataset.i = i));
        return one.length;
    }""")
    reached = set()
    for _ in range(wanted + 5):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.dataset.i"))
    assert {str(i) for i in range(wanted)} <= reached


# --- What a reader does ---


def test_one_line_is_read_by_every_step(page):
    type_in(page, "To be, or no")
    assert {page.locator(f"#line-{n}").input_value() for n in (1, 3, "all")} == {"To be, or no"}
    rows, tokens = page.locator("[data-rung]:visible"), TOKENIZER.encode("To be, or no")
    assert rows.count() == 6
    for row, name in zip(rows.all(), VIDEO, strict=False):
        model, block_size = rounded(name)
        losses = []
        for i in range(1, len(tokens)):
            logits, _ = read(model, tokens[max(0, i - block_size) : i])
            losses.append(-logits.log_softmax(dim=0)[tokens[i]].item())
        assert row.locator(".mean").inner_text() == f"{statistics.mean(losses):.2f}"
        seen = 1 if name == VIDEO[0] else 8
        assert row.locator(".seen").count() == seen
    own = page.locator("#data tbody.own tr").last.locator("code")  # the same line as a window
    assert own.all_inner_texts() == ["be,␣or␣n", "o"]


def test_a_position_is_chosen_by_pointer_and_keys(page):
    type_in(page, "Hamlet is")
    cells, chosen = page.locator("#try-6 .strip .cell"), "#try-6 .strip .chosen .char"
    cells.nth(4).hover()  # shown for as long as the pointer is there
    assert page.locator(chosen).inner_text() == "e"
    page.locator("#try-6 h3").hover()
    assert page.locator(chosen).inner_text() == "s"
    cells.nth(3).click()
    for key, char in (("ArrowLeft", "m"), ("End", "s"), ("Home", "H"), ("ArrowLeft", "H")):
        page.keyboard.press(key)
        assert page.locator(chosen).inner_text() == char
    after = page.locator("#try-6 .after").inner_text()
    assert after.startswith("After “H” your line goes on with “a”: place ")
    page.keyboard.press("ArrowRight")  # what was said of the next one is said of this one itself
    itself = page.locator("#try-6 .itself").inner_text()
    assert itself.removeprefix("“a” itself: ") == after.split("“a”: ")[1]


def test_each_head_is_shown_with_its_numbers(page):
    type_in(page, "my lord!")
    for number, heads in ((2, 1), (3, 4), (4, 4), (5, 12), (6, 12)):
        _, weights = read(rounded(VIDEO[number - 1])[0], TOKENIZER.encode("my lord!"))
        rows = page.locator(f"#try-{number} .heads-of tbody tr")
        assert rows.count() == len(weights) == heads
        for row, expected in zip(rows.all(), weights, strict=True):
            numbers = [int(cell.inner_text()) for cell in row.locator("td").all()]
            assert numbers == pytest.approx([100 * w for w in expected.tolist()], abs=0.51)
    page.locator("#try-6 .heads-of input").last.check()
    assert "layer 3, head 4" in page.locator("#try-6 .summary").inner_text()
    looks = [int(cell.inner_text()) for cell in page.locator("#try-6 .strip .look").all()]
    assert looks == pytest.approx([100 * w for w in weights[11].tolist()], abs=0.51)


def test_unknown_characters_are_named(page):
    note, shown = page.locator("#try-6 .note"), page.locator("#try-6 .strip .char")
    type_in(page, "café €")
    assert note.inner_text() == "Not in the vocabulary, and left out: é, €"
    assert "".join(shown.all_inner_texts()) == "caf␣"
    type_in(page, "")
    assert "line break" in note.inner_text()
    assert shown.all_inner_texts() == ["↵"]
    type_in(page, "a" * 100)
    assert note.inner_text() == "The last 64 of 100 characters are read."
    assert shown.count() == 64


def test_the_same_seed_writes_the_same_text(page):
    box = page.locator("#try-6")
    type_in(page, "KING")
    box.locator(".write").click()
    first = written(page)
    assert first.startswith("KING")
    assert len(first) == 4 + 300
    box.locator(".again").click()
    assert written(page) == first
    box.locator(".seed").fill("5")
    box.locator(".again").click()
    assert written(page) != first
    for wrong in ("", "-1", "1.5"):
        box.locator(".seed").fill(wrong)
        box.locator(".write").click()
        assert box.locator(".written").inner_text() != first
    box.locator(".seed").fill("1337")
    box.locator(".write").click()
    assert written(page) == first
    box.locator(".write").click()  # goes on from where it stands
    assert written(page).startswith(first)


def test_a_step_can_be_stopped_and_goes_on(open_page):
    page = open_page(reduced_motion="no-preference")  # character by character
    box, more = page.locator("#try-2"), "(n) => document.querySelector('#try-2 .written')"
    more += ".textContent.length > n"
    box.locator(".write").click()
    page.wait_for_function(more, arg=40)
    box.locator(".stop").click()
    stopped = box.locator(".written").inner_text()
    box.locator(".write").click()
    page.wait_for_function(more, arg=len(stopped) + 20)
    assert box.locator(".written").inner_text().startswith(stopped)
    type_in(page, "Another", 2)  # ends it
    assert box.locator(".stop").is_disabled()


def test_the_slider_shows_what_was_measured(open_page):
    for file, names in ((PAGE, VIDEO), (BEYOND, LESSONS)):
        page = open_page(file)
        for name in names:
            box = page.locator(f"[data-learn='{name}']")
            for i, (step, train, val, sample) in enumerate(RESULTS[name]["evaluations"]):
                box.locator("input").fill(str(i))
                said = f"optimiser step {step}: train loss {train:.4f}, val loss {val:.4f}"
                assert box.locator(".at").inner_text() == said
                assert box.locator(".sample").text_content() == sample


def test_step_7_joins_when_it_is_asked_for(page):
    assert f"{BESIDE.stat().st_size / 1e6:.1f} MB" in page.locator("#try-7 .load").inner_text()
    page.locator("#live .load").click()
    page.locator("#try-7 .loaded").wait_for()
    assert page.locator("[data-rung]:visible").count() == 7
    assert page.locator("#try-7 .heads-of tbody tr").count() == 18
    assert page.locator(".load:visible").count() == 0


def test_a_missing_file_is_named(open_page, tmp_path):
    shutil.copy(PAGE, tmp_path)
    page = open_page(tmp_path / "index.html")
    page.locator("#try-7 .load").click()
    page.locator("#try-7 .failed", has_text="is it beside this page").wait_for()
    assert page.locator("#try-7 .load").is_enabled()
    (said,) = open_page.noise
    assert "ERR_FILE_NOT_FOUND" in said
    open_page.noise.clear()


def test_a_score_is_dragged(page):
    page.locator(".scores input").nth(1).fill("4")
    weights = torch.tensor([0.0, 4, 0, 0]).softmax(dim=0)
    mean = (weights @ torch.tensor([2.0, 6, 1, 7])).item()
    assert page.locator(".weighted").inner_text().endswith(f"= {mean:.2f}")
    page.locator(".zero").click()
    assert page.locator(".weighted").inner_text().endswith("= 4.00")


def test_the_letters_are_a_hover_a_tap_or_a_key_away(page):
    popup, place = page.locator("#letters-here"), page.locator("#step-2 a.shape").first
    place.hover()
    assert popup.is_visible()
    page.keyboard.press("Escape")
    assert not popup.is_visible()
    place.focus()
    assert "channels" in popup.inner_text()
    page.locator("#step-2 h2").click()
    assert not popup.is_visible()
    page.locator("#step-2 .diff .c1", has_text="(B, T, C)").first.click()
    assert popup.is_visible()
