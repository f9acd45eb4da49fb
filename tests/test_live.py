"""The pages in a browser: their models are the scripts' own, and a reader can work every part."""

import json
import statistics
import subprocess

import pytest
import torch
import torch.nn.functional as F
from conftest import FILES, ROOT, TABLE, load
from test_docs import DOCS, RESULTS, VIDEO, export, git  # says what must be installed
from torch.overrides import TorchFunctionMode

pytestmark = pytest.mark.slow
PAGE, BEYOND = DOCS / "index.html", DOCS / "beyond.html"
KEPT = json.loads(export.WEIGHTS.read_text(encoding="utf-8"))
BESIDE = DOCS / f"{export.BESIDE}.js"
ENTRIES = KEPT["steps"] | {export.BESIDE: export.from_script(BESIDE.read_text(encoding="utf-8"))}
TOKENIZER = export.CharTokenizer(KEPT["chars"])
CHOSEN = json.loads((DOCS / "source" / "chosen.json").read_text(encoding="utf-8"))
PHONE = {"width": 390, "height": 844}


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

    def open_it(file=PAGE, hash="", **settings):
        wide = {"viewport": {"width": 1200, "height": 900}, "reduced_motion": "reduce"}
        contexts.append(browser.new_context(**wide | settings))
        page = contexts[-1].new_page()
        page.on("console", lambda message: noise.append(message.text))
        page.on("pageerror", lambda error: noise.append(str(error)))
        page.on("request", lambda r: r.url.startswith("file:") or noise.append(r.url))
        page.goto(file.as_uri() + hash)
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
    page.evaluate("wake()")


def type_in(page, text):
    page.locator("#line").fill(text)
    page.wait_for_timeout(50)  # step 7 is computed after the paint


def losses_of(model, block_size, tokens):
    """The loss of each token but the first, from the block_size tokens before it."""
    found = []
    for i in range(1, len(tokens)):
        logits, _ = read(model, tokens[max(0, i - block_size) : i])
        found.append(-logits.log_softmax(dim=0)[tokens[i]].item())
    return found


@torch.no_grad()
def losses_in_pieces(model, block_size, tokens):
    """The same where the line is cut into windows, and each is read at once."""
    rows = [
        model(torch.tensor([tokens[start : start + block_size]]))[0][0]
        for start in range(0, len(tokens), block_size)
    ]
    logs = torch.cat(rows).log_softmax(dim=-1)
    return [-logs[i - 1, tokens[i]].item() for i in range(1, len(tokens))]


# --- The models ---


@pytest.mark.parametrize("name", VIDEO)
def test_logits_and_attention_are_those_of_torch(page, name):
    if name == export.BESIDE:
        load_step_7(page)
    model, block_size = rounded(name)
    script = """([name, tokens]) => {
        const one = original(name);
        return tokens.map((_, i) => {
            const past = LanguageModel.past();
            const window = tokens.slice(Math.max(0, i + 1 - one.block_size), i + 1);
            const logits = one.forward(window, past).at(-1);
            const heads = headsOf(name, one).map((p) => [...past.heads.get(p).weights.at(-1)]);
            return [[...logits], name === "01_bigram" ? [] : heads, [...read(one, tokens)[i]]];
        });
    }"""
    for text in [*export.PROOF, KEPT["chars"][:64]]:
        tokens = export.readable(text, TOKENIZER)
        found = page.evaluate(script, [name, tokens])
        assert len(found) == len(tokens)
        for i, (logits, weights, probs) in enumerate(found):
            expected, rows = read(model, tokens[max(0, i + 1 - block_size) : i + 1])
            torch.testing.assert_close(torch.tensor(logits), expected, rtol=0, atol=1e-4)
            torch.testing.assert_close(
                torch.tensor(probs).float(), expected.softmax(dim=0), rtol=0, atol=1e-5
            )
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
        const writing = original(name).generate(tokens, () => 0.8, next);
        return random.map(() => writing.next().value);
    }"""
    found = page.evaluate(script, [name, tokens, random])
    for number in random:
        logits, _ = read(model, tokens[-block_size:])
        past = (logits.double() / 0.8).softmax(dim=0).cumsum(dim=0) > number
        tokens = [*tokens, past.tolist().index(True)]
    assert found == tokens[-len(random) :]


SWITCHES = {
    "even": lambda model, heads: [head.query.weight.zero_() for head in heads],
    "positions": lambda model, heads: model.position_embedding.weight.zero_(),
    "mask": lambda model, heads: [head.tril.fill_(1) for head in heads],
    "h1": lambda model, heads: heads[1].value.weight.zero_(),
    "b0": lambda model, heads: model.blocks.__delitem__(0),
    "h3.positions.b2": lambda model, heads: [
        heads[3].value.weight.zero_(),
        model.position_embedding.weight.zero_(),
        model.blocks.__delitem__(2),
    ],
}


@pytest.mark.parametrize("number", range(2, 8))
@torch.no_grad()
def test_what_is_switched_off_gives_the_loss_that_torch_gives(open_page, number):
    name, page = VIDEO[number - 1], None
    tokens = TOKENIZER.encode("To be, or not to be: that")
    for off, change in SWITCHES.items():
        if "b" in off and number < 5 or "h" in off and number < 3:
            continue
        model, block_size = rounded(name)
        heads = [module for module in model.modules() if type(module).__name__ == "Head"]
        measure = losses_in_pieces if off == "mask" else losses_of
        former = statistics.mean(measure(model, block_size, tokens))
        change(model, heads)
        now = statistics.mean(measure(model, block_size, tokens))
        page = open_page(hash=f"#line=To be, or not to be: that&step={number}&off={off}")
        said = page.locator(f"#row-{number} .switches .now").inner_text()
        shown = [float(value) for value in said.split(" → ")]
        assert shown == pytest.approx([former, now], abs=0.0051), off
        row = page.locator(f"#row-{number} output").first.inner_text()
        assert row == said.split(" → ")[1]


@torch.no_grad()
def test_an_opened_cell_shows_the_numbers_of_the_tensors(open_page):
    page = open_page(hash="#line=my lord!&step=6&head=6")
    page.locator("#row-6 [data-t='5'][data-s='2']").click()
    model, _ = rounded(VIDEO[5])
    kept, head = {}, model.blocks[1].attention.heads[1]
    head.register_forward_hook(lambda head, x, out: kept.update(x=x[0], out=out[0]))
    read(model, TOKENIZER.encode("my lord!"))
    q, k, v = (layer(kept["x"])[0] for layer in (head.query, head.key, head.value))
    text = page.locator("#row-6 .sum").inner_text().replace("−", "-")
    total = (q[5] * k[2]).sum().item()
    assert f"\n{total:.2f} 8 products" in text
    assert f"\n{total / 8**0.5:.2f} = {total:.2f} ÷ 2.83" in text
    scores = q[5] @ k[:6].T / 8**0.5
    rows = page.locator("#row-6 .soft tbody tr").all()
    assert len(rows) == 6
    for row, score, weight in zip(rows, scores, scores.softmax(dim=0), strict=True):
        cells = [cell.inner_text().replace("−", "-") for cell in row.locator("td").all()]
        assert float(cells[0]) == pytest.approx(score.item(), abs=0.0051)
        assert float(cells[1]) == pytest.approx(score.exp().item(), rel=0.01, abs=0.0051)
        assert float(cells[3].split()[0]) == pytest.approx(100 * weight.item(), abs=0.51)
    bars = "(g) => [...g.querySelectorAll('rect')].map((r) => +r.getAttribute('height'))"
    for i, expected in ((0, q[5]), (1, k[2]), (2, q[5] * k[2]), (-1, kept["out"][5])):
        svg = page.locator("#row-6 .sum dd > svg")
        found = torch.tensor(svg.nth(i if i >= 0 else 3).evaluate(bars))
        assert (found.argmax() == expected.abs().argmax()).item() or i == 0
        ratio = found / found.max() - expected.abs() / expected.abs().max()
        assert ratio.abs().max() < 0.1
    torch.testing.assert_close(scores.softmax(dim=0) @ v[:6], kept["out"][5])
    opened = page.locator("#row-6 .cell-name").inner_text().split(":")[0]
    page.locator("#row-6 .switches input").nth(2).check()  # no positions, for the same cell
    assert page.locator("#row-6 .cell-name").inner_text().split(":")[0] == opened


def test_the_sentence_over_the_heads_says_what_the_picture_has(open_page):
    page = open_page()
    cells = (
        "(all) => all.map((e) => [+e.dataset.t, +e.dataset.s, +e.style.getPropertyValue('--w')])"
    )
    for number in (2, 3, 4, 6):
        figure = page.locator(f"#figure-{number}")
        for positions in (True, False):
            figure.locator("[data-keep=positions]").set_checked(not positions)
            said = figure.locator(".said").first.inner_text()
            shown = float(said.split(" in this picture ")[1].split("%")[0])
            grid = figure.locator(".cell").evaluate_all(cells)
            back = [w for t, s, w in grid if t == s + 1]
            assert shown == pytest.approx(100 * statistics.mean(back), abs=0.51)


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
        assert section.locator(".formula").count() == ("formula" in row)
        assert section.locator(".curves").count() == (name in RESULTS)
        assert section.locator(".picture").count() == ("picture" in row)
        lines = FILES[name].read_text(encoding="utf-8").splitlines()
        whole = len(lines) if name in RESULTS else 0  # tools and exercises show their changes alone
        assert section.locator(".file i").count() == whole
        if "extends" in row:
            old = TABLE[row["extends"]]["file"]
            numbers = ["git", "diff", "--no-index", "--numstat", old, row["file"]]
            printed = subprocess.run(numbers, cwd=ROOT, capture_output=True, text=True).stdout
            added, removed = map(int, printed.split()[:2])
            assert section.locator("ins.l").count() == added
            assert section.locator("del.l").count() == removed
            for part in section.locator("details.diff").all():  # the count that it promises
                count = part.locator("ins.l, del.l").count()
                assert part.locator("summary").inner_text().startswith(f"{count} more changed")
        if name in RESULTS:
            assert (
                page.locator(f"#key-{number}:visible").inner_text().strip().startswith(row["key"])
            )


@pytest.mark.parametrize("file", [PAGE, BEYOND])
@pytest.mark.parametrize(
    "settings",
    [{}, {"color_scheme": "dark", "viewport": PHONE}, {"forced_colors": "active"}],
    ids=["wide", "phone", "forced colours"],
)
def test_a_page_is_accessible_and_fits(open_page, file, settings):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe").Axe()
    states = ["", "#step=1", "#step=6&off=h3&line=Zounds, café! xQzj&at=4", "#step=7&off=mask"]
    page = open_page(file, **settings)
    for hash in states if file == PAGE else [""]:
        page.goto(file.as_uri() + hash)
        page.reload()
        if "step=7" in hash:
            page.locator("#row-7 .switches").wait_for()
        found = axe.run(page)
        assert found.response["violations"] == [], found.generate_report()
        width = page.evaluate("document.documentElement.clientWidth")
        assert page.evaluate("document.documentElement.scrollWidth") == width


@pytest.mark.parametrize("file", [PAGE, BEYOND])
def test_a_phone_shows_a_page_without_scrolling_sideways(open_page, file):
    """Nothing ends right of the window, samples are whole, letters of pictures have 10 pixels."""
    states = ["", *(f"#step={n}" for n in range(1, 8))] if file == PAGE else [""]
    page = open_page(file, viewport=PHONE)
    for hash in states:
        page.goto(file.as_uri() + hash)
        page.reload()
        if "step=7" in hash:
            page.locator("#row-7 .switches").wait_for()
        for width in (390, 360, 320):
            page.set_viewport_size({"width": width, "height": 844})
            assert page.evaluate("document.documentElement.scrollWidth") == width, (hash, width)
        page.set_viewport_size(PHONE)
        too_long = """all(".formula").filter((e) => e.scrollWidth > e.clientWidth)
            .concat(all(".sample").filter((e) => e.scrollHeight > e.clientHeight))
            .map((e) => `${e.closest("section").id} ${e.className}`)"""
        assert page.evaluate(too_long) == []
        too_small = """all("figure svg text").filter((e) => e.getBoundingClientRect().width
            && parseFloat(getComputedStyle(e).fontSize) * e.getScreenCTM().a < 10)
            .map((e) => e.textContent)"""
        assert page.evaluate(too_small) == []
        headings = page.locator("#row-1 .score small, .heads .long").all() if file == PAGE else []
        for one in headings:
            assert one.evaluate("(e) => e.scrollWidth <= e.clientWidth")


def test_a_phone_keeps_the_rows_in_place_when_an_example_has_a_note(open_page):
    page = open_page(viewport=PHONE)
    before = page.locator("#row-1").bounding_box()["y"]
    for example in page.locator("[data-line]").all():
        example.click()
        assert page.locator("#note").inner_text()
        assert page.locator("#row-1").bounding_box()["y"] == before


def test_the_race_stands_on_the_first_screen(open_page):
    page = open_page(viewport={"width": 1280, "height": 800})
    last = page.locator("#row-7").bounding_box()
    assert last["y"] + last["height"] < 800
    page = open_page(viewport={"width": 390, "height": 844})
    third = page.locator("#row-3").bounding_box()
    assert third["y"] + third["height"] < 844


def test_without_javascript_a_page_still_shows_the_steps(open_page):
    page = open_page(java_script_enabled=False)
    assert page.locator(".live:visible").count() == 0
    assert page.locator("section.step:visible").count() == len(VIDEO)
    assert page.locator("#step-6 .lines").first.is_visible()
    assert page.locator("noscript p").is_visible()


def test_every_control_is_reached_by_keyboard(open_page):
    page = open_page(hash="#step=6")
    page.locator("#row-6 .switches").wait_for()
    page.evaluate("document.activeElement.blur(), scrollTo(0, 0)")
    wanted = page.evaluate("""() => {
        const kinds = "button, input, textarea, a[href], summary, [tabindex='0']";
        const seen = (e) => e.checkVisibility({ visibilityProperty: true }) && !e.disabled;
        const one = [...document.querySelectorAll(kinds)].filter((e) => seen(e) && e.tabIndex >= 0);
        one.forEach((e, i) => (e.dataset.i = i));
        return one.length;
    }""")
    reached = set()
    for _ in range(wanted + 5):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.dataset.i"))
    assert {str(i) for i in range(wanted)} <= reached
