"""The page's models are the scripts' own, and a reader can work every part of it."""

import json
import re
import shutil
import statistics

import numpy as np
import pytest
import torch
from conftest import FILES, ROOT, SCRIPTS, STEPS, TABLE, run, small_flags, small_model
from test_docs import PAGE, RESULTS, VIDEO, attention, measure  # also says what has to be installed

import export  # isort: skip

pytestmark = pytest.mark.slow
KEPT = json.loads(export.WEIGHTS.read_text(encoding="utf-8"))
BESIDE = PAGE.parent / f"{export.BESIDE}.js"
ENTRIES = KEPT["steps"] | {
    export.BESIDE: KEPT["steps"][export.BESIDE]
    | export.from_script(BESIDE.read_text(encoding="utf-8"))
}
VOCABULARY = export.Vocabulary(KEPT["chars"])
TEXTS = export.proof_texts(VOCABULARY.chars)
LEARNING = RESULTS["learning"]


def rounded(name):
    """The scripts' model of a step with the page's weights, and the length of its context."""
    step, entry = STEPS[SCRIPTS.index(name)], ENTRIES[name]
    config = step.Config(**entry["config"])
    model = step.LanguageModel(config, VOCABULARY.vocab_size)
    missing, unexpected = model.load_state_dict(export.unpack(entry), strict=False)
    assert all(key.endswith("tril") for key in missing)
    assert not unexpected
    return model.eval(), config.block_size


@pytest.fixture
def open_page(browser):
    """Opens a page of docs/ with these settings; at the end nothing but files was asked for."""
    contexts, noise = [], []

    def open_it(file=PAGE, **settings):
        settings = {
            "viewport": {"width": 1200, "height": 900},
            "reduced_motion": "reduce",
        } | settings
        contexts.append(browser.new_context(**settings))
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


# --- The models ---


@pytest.mark.parametrize("name", VIDEO)
def test_logits_and_weights_are_those_of_torch(page, name):
    if name == export.BESIDE:
        load_step_7(page)
    model, block_size = rounded(name)
    script = """([name, text]) => {
        const { tokens } = vocabulary.encode(text);
        const found = read(name, tokens.length ? tokens : [0]);
        return found.map(({ logits, weights }) => [[...logits], weights.map((row) => [...row])]);
    }"""
    assert len(TEXTS) == 10
    for text, unrounded in zip(TEXTS, ENTRIES[name]["proof"], strict=True):
        tokens = export.readable(text, VOCABULARY)
        found = page.evaluate(script, [name, text])
        assert len(found) == len(tokens)
        for i, (logits, weights) in enumerate(found):
            seen = tokens[max(0, i + 1 - block_size) : i + 1]
            with torch.no_grad():
                expected = model(torch.tensor([seen]))[0][0, -1]
            torch.testing.assert_close(torch.tensor(logits), expected, rtol=0, atol=1e-4)
            if name == "01_bigram":
                assert weights == []
                continue
            rows = attention.attention_weights(model, seen)[:, -1]  # (heads, T)
            found_rows = torch.tensor(weights, dtype=torch.float32)
            torch.testing.assert_close(found_rows, rows, rtol=0, atol=1e-5)
            assert all(abs(sum(row) - 1) < 1e-9 for row in weights)
        apart = np.abs(np.array(found[-1][0]) - unrounded).max()
        assert apart < 1e-2, text


@pytest.mark.parametrize("name", VIDEO[1:])
def test_what_follows_changes_nothing_before(page, name):
    if name == export.BESIDE:
        load_step_7(page)
    script = """([name, text]) => {
        const model = new LanguageModel(name), past = LanguageModel.past();
        const logits = model.forward(vocabulary.encode(text).tokens, past);
        const lists = (rows) => rows.map((row) => [...row]);
        return [lists(logits), past.weights.map(lists)];
    }"""
    logits, weights = page.evaluate(script, [name, "The king"])
    changed, weights_changed = page.evaluate(script, [name, "The kinz"])
    assert logits[:7] == changed[:7]
    assert logits[7] != changed[7]
    for rows, others in zip(weights, weights_changed, strict=True):
        assert rows[:7] == others[:7]
        assert [len(row) for row in rows] == list(range(1, 9))


@pytest.mark.parametrize("name", VIDEO)
def test_what_is_remembered_is_what_would_be_computed(page, name):
    if name == export.BESIDE:
        load_step_7(page)
    apart = page.evaluate(
        """(name) => {
        const model = new LanguageModel(name), idx = vocabulary.encode("The king").tokens;
        const whole = model.forward(idx), past = LanguageModel.past();
        const go_on = (ends) => model.forward(idx.slice(...ends), past);
        const parts = [[0, 3], [3, 4], [4, 8]].flatMap(go_on);
        const apart = (a, b) => Math.max(...a.map((value, i) => Math.abs(value - b[i])));
        return Math.max(...whole.map((row, t) => apart(row, parts[t])));
    }""",
        name,
    )
    assert apart < 1e-9


def test_the_page_unpacks_what_export_has_packed(page):
    """The lowest and the highest integers, a row of zeros, a vector; exact in float32."""
    with torch.no_grad():
        model = torch.nn.Sequential(torch.nn.Embedding(3, 2), torch.nn.LayerNorm(2))
        model[0].weight.copy_(torch.tensor([[-1.5, 1.5], [0, 0], [3e-6, -1e-6]]))
    packed = export.pack(model)
    found = page.evaluate(
        """(packed) => {
        const { 0: { weight }, 1: norm } = unpack(packed);
        return [...weight, norm.weight, norm.bias].map((row) => [...row]);
    }""",
        packed,
    )
    weights = export.unpack(packed)
    expected = [*weights["0.weight"], weights["1.weight"], weights["1.bias"]]
    assert torch.equal(torch.tensor(found), torch.stack(expected))


@pytest.mark.parametrize("name", VIDEO)
@pytest.mark.parametrize("length", [1, 100], ids="a prompt of {} characters".format)
def test_what_is_written_goes_on_from_the_last_block_size_characters(page, name, length):
    """The same random numbers, drawn from torch's probabilities after each window."""
    if name == export.BESIDE:
        load_step_7(page)
    model, block_size = rounded(name)
    tokens = VOCABULARY.encode(("To be, or not to be: that is the question. " * 3)[:length])
    random = [(0.37 + 0.618034 * i) % 1 for i in range(20)]
    found = page.evaluate(
        """([name, tokens, random]) => {
        const numbers = [...random], next = () => numbers.shift();
        const writing = model(name).generate(tokens, 0.8, next);
        return random.map(() => writing.next().value);
    }""",
        [name, tokens, random],
    )
    for number in random:
        with torch.no_grad():
            logits = model(torch.tensor([tokens[-block_size:]]))[0][0, -1]
        past = (logits.double() / 0.8).softmax(dim=0).cumsum(dim=0) > number
        tokens = [*tokens, past.tolist().index(True)]
    assert found == tokens[-len(random) :]


@pytest.mark.parametrize("temperature", [1, 0.5])
def test_what_is_written_is_drawn_from_the_softmax(page, temperature):
    draws = 4000
    counts, probs = page.evaluate(
        """([draws, temperature]) => {
        const idx = vocabulary.encode("The king").tokens, random = generator(7);
        const counts = vocabulary.chars.map(() => 0), one = model("06_residual_layernorm");
        const draw = () => one.generate(idx, temperature, random).next().value;
        for (let i = 0; i < draws; i++) counts[draw()]++;
        return [counts, [...one.forward(idx).at(-1)]];
    }""",
        [draws, temperature],
    )
    probs = torch.tensor(probs).div(temperature).softmax(dim=0)
    error = (probs * (1 - probs) / draws).sqrt()
    assert (torch.tensor(counts) / draws - probs).abs().le(5 * error + 1e-3).all()
    assert probs.max() > 0.2  # so that even odds would not do


@pytest.mark.parametrize("name", ["01_bigram", "06_residual_layernorm"])
def test_each_next_character_is_drawn_from_the_context_of_the_script(page, name):
    """Past block_size, too, where all positions move along."""
    model, block_size = rounded(name)
    tokens, drawn = page.evaluate(
        """(name) => {
        const idx = vocabulary.encode("The k").tokens, seen = [];
        const one = model(name), forward = one.forward;
        one.forward = (...given) => {
            const out = forward.apply(one, given);
            seen.push([...out.at(-1)]);
            return out;
        };
        const tokens = one.generate(idx, 1, generator(1));
        for (let i = 0; i < 20; i++) idx.push(tokens.next().value);
        delete one.forward;
        return [idx, seen];
    }""",
        name,
    )
    for i, logits in enumerate(drawn):
        seen = torch.tensor([tokens[: 5 + i][-block_size:]])
        with torch.no_grad():
            expected = model(seen)[0][0, -1]
        torch.testing.assert_close(torch.tensor(logits), expected, rtol=0, atol=1e-4)


def test_random_numbers_are_even(page):
    found = page.evaluate(
        "() => { const r = generator(1); return [...Array(20000)].map(() => r()); }"
    )
    assert 0 <= min(found) < max(found) < 1
    assert statistics.mean(found) == pytest.approx(0.5, abs=0.01)
    assert np.histogram(found, 10, (0, 1))[0] == pytest.approx(2000, abs=250)


def test_the_models_are_one_short_file():
    text = (ROOT / "docs" / "model.js").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 250


# --- Where they come from ---


def test_the_training_that_the_page_shows_is_that_of_the_results():
    """So looking on, and the samples at each evaluation, changed nothing."""
    assert list(LEARNING) == [name for name in SCRIPTS if name not in export.AS_BEFORE]
    for name, seen in LEARNING.items():
        if name == export.BESIDE and RESULTS["steps"][name]["size"] != "laptop":
            continue  # it was measured at the full size, which is no page's
        one = RESULTS["steps"][name]["runs"][0]
        assert one["seed"] == seen["seed"]
        assert [row[:3] for row in seen["evaluations"]] == one["curve"]
        assert all(len(row[3]) == export.SAMPLE for row in seen["evaluations"])


@pytest.mark.parametrize("name", [SCRIPTS[0], SCRIPTS[5], SCRIPTS[6]])
def test_looking_on_changes_no_loss(name, tmp_path, monkeypatch):
    flags = small_flags(STEPS[SCRIPTS.index(name)], tmp_path, max_iters=4, eval_interval=2)
    monkeypatch.setattr(export, "SAMPLE", 5)
    model, _, evaluations = export.learn(name, *flags)
    alone = measure.parse(measure.run(TABLE[name]["file"], "--seed", export.SEED, *flags))
    assert [row[:3] for row in evaluations] == alone["curve"]
    assert [len(row[3]) for row in evaluations] == [5, 5, 5]
    again, _, _ = export.learn(name, *flags)
    assert export.pack(again) == export.pack(model)


@pytest.mark.parametrize("name", VIDEO)
def test_the_weights_are_those_of_the_measured_run(name):
    entry = ENTRIES[name]
    loss = LEARNING[name]["evaluations"][-1][2]
    assert entry["made_from"].startswith(f"python {TABLE[name]['file']} --seed 1337")
    assert entry["made_from"].endswith(f"val loss {loss:.4f}")
    if not measure.TINY_SHAKESPEARE.exists():
        pytest.skip("needs data/input.txt")
    step, (model, _) = STEPS[SCRIPTS.index(name)], rounded(name)
    torch.manual_seed(0)
    config = step.Config(**entry["config"], eval_iters=10, eval_batch_size=64)
    corpus = measure.load_corpus(block_size=config.block_size)
    found = step.estimate_loss(model, corpus, config, torch.device("cpu"))
    assert found["val"] == pytest.approx(loss, abs=0.06)


def test_weights_are_packed_and_unpacked(tmp_path):
    model = small_model(STEPS[5])
    packed = export.pack(model)
    for name, weight in export.unpack(packed).items():
        exact = dict(model.named_parameters())[name]
        steps = exact.abs().amax(dim=-1, keepdim=True) / 32767  # at most half a step away
        assert ((weight - exact).abs() <= 0.51 * steps).all()
    entry = packed | {"made_from": "a test", "proof": [[1.0]]}
    assert export.from_script(export.script("x", entry)) == packed | {"made_from": "a test"}
    with torch.no_grad():
        model.lm_head.bias[0] = float("inf")
    with pytest.raises(ValueError, match="not a finite number"):
        export.pack(model)


def test_export_knows_its_steps():
    done = run(ROOT / "docs" / "export.py", "17_nothing")
    assert done.returncode
    assert "no step 17_nothing; there are 01_bigram, " in done.stderr


# --- What a reader does ---


def test_one_line_is_read_by_every_step(page):
    type_in(page, "To be, or no")
    assert {page.locator(f"#line-{n}").input_value() for n in (1, 3, "all")} == {"To be, or no"}
    rows = page.locator("[data-rung]:visible")
    assert rows.count() == 6
    for row, name in zip(rows.all(), VIDEO, strict=False):
        tokens = VOCABULARY.encode("To be, or no")
        model, block_size = rounded(name)
        losses = []
        for i in range(1, len(tokens)):
            with torch.no_grad():
                logits = model(torch.tensor([tokens[max(0, i - block_size) : i]]))[0][0, -1]
            losses.append(-logits.log_softmax(dim=0)[tokens[i]].item())
        assert row.locator(".mean").inner_text() == f"{statistics.mean(losses):.2f}"
        seen = 1 if name == "01_bigram" else 8
        assert row.locator(".seen").count() == seen
        assert f"{seen} character" in row.locator(".sees").inner_text()


def test_a_position_is_chosen_by_pointer_and_keys(page):
    type_in(page, "Hamlet is")
    cells = page.locator("#try-6 .strip .cell")
    cells.nth(4).hover()  # shown for as long as the pointer is there
    assert page.locator("#try-6 .strip .chosen .char").inner_text() == "e"
    page.locator("#try-6 h3").hover()
    assert page.locator("#try-6 .strip .chosen .char").inner_text() == "s"
    cells.nth(3).click()
    page.locator("#try-6 h3").hover()
    assert cells.nth(3).get_attribute("aria-pressed") == "true"
    assert page.locator("#try-6 .strip .chosen .char").inner_text() == "l"
    cells.nth(3).focus()
    page.keyboard.press("ArrowLeft")
    assert page.locator("#try-6 .strip .chosen .char").inner_text() == "m"
    assert page.evaluate("document.activeElement.getAttribute('aria-label')").startswith(
        "m, position 2"
    )
    after = page.locator("#try-6 .after").inner_text()
    assert after.startswith("After “m” your line goes on with “l”: place ")
    probability, loss = (
        float(word) for word in after.split("−ln ")[1].removesuffix(" nats.").split(" = ")
    )
    assert loss == pytest.approx(-np.log(probability), abs=0.02 + 0.0001 / probability)
    said = page.locator("[data-rung='06_residual_layernorm'] .next small").inner_text()
    assert float(said.split("loss ")[1]) == pytest.approx(loss, abs=0.011)
    page.keyboard.press("ArrowRight")  # what was said of the next one is said of this one itself
    itself = page.locator("#try-6 .itself").inner_text()
    assert itself.removeprefix("“l” itself: ") == after.split("“l”: ")[1]
    page.keyboard.press("End")
    assert page.locator("#try-6 .strip .chosen .char").inner_text() == "s"
    assert "where your line ends" in page.locator("#try-6 .after").inner_text()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowLeft")  # stays
    assert page.locator("#try-6 .strip .chosen .char").inner_text() == "H"
    assert page.locator("#try-6 .itself").inner_text() == "“H” itself: the line begins with it."


def test_each_head_is_shown_with_its_numbers(page):
    type_in(page, "my lord!")
    for number, heads in ((2, 1), (3, 4), (4, 4), (5, 12), (6, 12)):
        name = VIDEO[number - 1]
        model, _ = rounded(name)
        weights = attention.attention_weights(model, VOCABULARY.encode("my lord!"))[:, -1]
        rows = page.locator(f"#try-{number} .heads-of tbody tr")
        assert rows.count() == heads
        for row, expected in zip(rows.all(), weights.tolist(), strict=True):
            numbers = [int(cell.inner_text()) for cell in row.locator("td").all()]
            assert numbers == pytest.approx([100 * w for w in expected], abs=0.51)
    last = page.locator("#try-6 .heads-of input").nth(11)
    last.check()
    assert "layer 3, head 4" in page.locator("#try-6 .summary").inner_text()
    looks = [int(cell.inner_text()) for cell in page.locator("#try-6 .strip .look").all()]
    assert looks == pytest.approx([100 * w for w in weights[11].tolist()], abs=0.51)
    back = weights[11].argmax().item() - 7
    said = {0: "itself", -1: "the character before"}.get(back, f"{-back} back")
    assert (
        f"({said})"
        in page.locator("#try-6 .summary").inner_text().split("looks at")[1].split(",")[0]
    )


def test_unknown_characters_are_named(page):
    type_in(page, "café €")
    note = page.locator("#try-6 .note").inner_text()
    assert note == "Not in the vocabulary, and left out: é, €"
    assert "".join(page.locator("#try-6 .strip .char").all_inner_texts()) == "caf␣"
    type_in(page, "")
    assert "line break" in page.locator("#try-6 .note").inner_text()
    assert page.locator("#try-6 .strip .char").all_inner_texts() == ["↵"]
    type_in(page, 'a\t"b')
    assert page.locator("#try-6 .note").inner_text().endswith('left out: tab, "')
    type_in(page, "a" * 100)
    assert page.locator("#try-6 .note").inner_text() == "The last 64 of 100 characters are read."
    assert page.locator("#try-6 .strip .cell").count() == 64


def written(page, number=6):
    """What a step has written, once it waits."""
    page.locator(f"#try-{number} .write:enabled").wait_for()
    return page.locator(f"#try-{number} .written").inner_text()


def test_the_same_seed_writes_the_same_text(page):
    box = page.locator("#try-6")
    type_in(page, "KING")
    box.locator(".write").click()
    first = written(page)
    assert first.startswith("KING")
    assert len(first) == 4 + 300
    box.locator(".again").click()
    assert written(page) == first
    assert box.locator(".how").inner_text() == "Seed 1337, temperature 1.0"
    box.locator(".seed").fill("5")
    assert written(page) == first  # until it is asked for
    box.locator(".again").click()
    other = written(page)
    assert other != first
    assert box.locator(".how").inner_text() == "Seed 5, temperature 1.0"
    for wrong in ("", "-1", "1.5", "4294967296"):
        box.locator(".seed").fill(wrong)
        box.locator(".write").click()
        assert written(page) == other
    box.locator(".seed").fill("5")
    box.locator(".temperature").fill("0.1")
    box.locator(".write").click()
    assert written(page) not in (first, other)
    box.locator(".temperature").fill("1")
    box.locator(".seed").fill("1337")
    box.locator(".write").click()
    assert written(page) == first
    box.locator(".write").click()  # goes on from where it stands
    assert written(page).startswith(first)
    assert len(written(page)) == 4 + 600


def test_a_step_can_be_stopped_and_goes_on(open_page):
    page = open_page(reduced_motion="no-preference")  # character by character
    box = page.locator("#try-2")
    box.locator(".write").click()
    page.wait_for_function("document.querySelector('#try-2 .written').textContent.length > 40")
    box.locator(".stop").click()
    assert box.locator(".write").is_enabled()
    stopped = box.locator(".written").inner_text()
    box.locator(".write").click()
    page.wait_for_function(
        "(n) => document.querySelector('#try-2 .written').textContent.length > n + 20",
        arg=len(stopped),
    )
    assert box.locator(".written").inner_text().startswith(stopped)
    type_in(page, "Another", 2)  # ends it
    assert box.locator(".stop").is_disabled()


def test_the_slider_shows_what_was_measured(page):
    for name, seen in LEARNING.items():
        if name not in VIDEO:
            continue
        box = page.locator(f"[data-learn='{name}']")
        for i, (step, train, val, sample) in enumerate(seen["evaluations"]):
            said = f"optimiser step {step}: train loss {train:.4f}, val loss {val:.4f}"
            assert box.locator(".at").inner_text() == said
            assert box.locator(".sample").text_content() == sample
            assert box.locator("input").get_attribute("aria-valuetext") == said
            point = page.locator(f"[data-learn='{name}'] .val").get_attribute("points").split()[i]
            x, y = map(float, point.split(","))
            assert float(box.locator("circle").get_attribute("cx")) == pytest.approx(x, abs=0.06)
            assert float(box.locator("circle").get_attribute("cy")) == pytest.approx(y, abs=0.06)
            assert 0 < y < 120
            box.locator("input").focus()
            page.keyboard.press("ArrowRight")


def test_step_7_joins_when_it_is_asked_for(page):
    size = f"{BESIDE.stat().st_size / 1e6:.1f} MB"
    assert size in page.locator("#try-7 .load").inner_text()
    assert page.locator("[data-rung]:visible").count() == 6
    load_step_7(page)
    assert page.locator("[data-rung]:visible").count() == 7
    assert page.locator("#try-7 .heads-of tbody tr").count() == 18
    assert "val loss 1.7842" in page.locator("#try-7 .failed").inner_text()
    assert page.locator(".load:visible").count() == 0


def test_step_7_can_be_asked_for_where_the_steps_are_beside_each_other(page):
    page.locator("#live .load").click()
    page.locator("#try-7 .loaded").wait_for()
    assert page.locator("[data-rung]:visible").count() == 7
    assert page.evaluate("document.activeElement.id") == "line-all"


def test_a_missing_file_is_named(open_page, tmp_path):
    shutil.copy(PAGE, tmp_path)
    page = open_page(tmp_path / "index.html")
    page.locator("#try-7 .load").click()
    page.wait_for_function(
        "document.querySelector('#try-7 .failed').textContent.includes('is it beside this page')"
    )
    assert page.locator("#try-7 .load").is_enabled()
    (said,) = open_page.noise
    assert "ERR_FILE_NOT_FOUND" in said
    open_page.noise.clear()


def test_a_score_is_dragged(page):
    slider = page.locator(".scores input").nth(1)
    assert page.locator(".weighted").inner_text().endswith("= 4.00")
    slider.fill("4")
    weights = torch.tensor([0.0, 4, 0, 0]).softmax(dim=0)
    mean = (weights @ torch.tensor([2.0, 6, 1, 7])).item()
    assert page.locator(".weighted").inner_text().endswith(f"= {mean:.2f}")
    cells = page.locator(".soft tbody tr").last.locator("td").all_inner_texts()
    assert cells == [*(f"{w:.2f}" for w in weights.tolist()), f"{mean:.2f}"]
    page.locator(".zero").click()
    assert page.locator(".weighted").inner_text().endswith("= 4.00")


def test_the_letters_are_a_hover_a_tap_or_a_key_away(page):
    popup = page.locator("#letters-here")
    place = page.locator("#step-2 a.shape").first
    place.hover()
    assert popup.is_visible()
    page.keyboard.press("Escape")
    assert not popup.is_visible()
    place.focus()
    assert "channels" in popup.inner_text()
    page.locator("#step-2 h2").click()
    assert not popup.is_visible()
    comment = page.locator("#step-2 .diff .c1", has_text="(B, T, C)").first
    comment.click()
    assert popup.is_visible()


def test_the_window_is_the_one_of_the_data(page):
    rows = page.locator("#data tbody").first.locator("tr")
    lines = [line for line in RESULTS["data"].splitlines() if line.startswith("  after")]
    assert rows.count() == len(lines) == 8
    type_in(page, "Hello, you")
    own = page.locator("#data tbody.own tr").last
    assert own.locator("code").first.inner_text() == "ello,␣yo"
    assert own.locator("code").last.inner_text() == "u"


def test_every_control_is_reached_by_keyboard(page):
    load_step_7(page)
    page.locator("#try-6 .write").click()
    written(page)
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


@pytest.mark.parametrize(("scheme", "width"), [("light", 1200), ("dark", 380)])
def test_the_live_page_is_accessible_and_fits(open_page, scheme, width):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe").Axe()
    page = open_page(color_scheme=scheme, viewport={"width": width, "height": 800})
    load_step_7(page)
    type_in(page, "Zounds, café! xQzj")
    page.locator("#try-6 .strip .cell").nth(9).click()
    page.locator("#try-6 .write").click()
    written(page)
    page.locator("#step-3 a.shape").first.focus()
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate(
        "[...document.querySelectorAll('.heads-of')].every((e) => e.scrollWidth <= e.clientWidth)"
    )
    found = axe.run(page)
    assert found.response["violations"] == [], found.generate_report()


def test_without_javascript_the_page_is_as_it_was(open_page):
    page = open_page(java_script_enabled=False)
    assert page.locator(".live:visible").count() == 0
    assert page.locator("section.step:visible").count() == len(VIDEO)
    assert page.locator("#step-6 .diff").is_visible()
    assert page.locator("#averages").is_visible()
    assert page.locator("#letters").is_visible()


def test_formulas_fit_a_phone(open_page):
    page = open_page(viewport={"width": 380, "height": 800})
    cut = """() => [...document.querySelectorAll(".formula")]
        .filter((e) => e.scrollWidth > e.clientWidth).map((e) => e.ariaLabel)"""
    assert page.evaluate(cut) == []


def test_numbers_and_letters_are_large_enough_on_a_phone(open_page):
    """At least 11 pixels in every picture, table and strip."""
    for file in (PAGE, PAGE.parent / "beyond.html"):
        page = open_page(file, viewport={"width": 380, "height": 800})
        small = page.evaluate("""() => {
            const out = [];
            for (const e of document.querySelectorAll("svg text, td, .look, .char")) {
                const { a, b } = e.getScreenCTM?.() ?? { a: 1, b: 0 };
                const scale = Math.hypot(a, b); // some are turned
                const size = parseFloat(getComputedStyle(e).fontSize) * scale;
                if (size < 10.9) out.push(`${e.textContent}: ${size.toFixed(1)}`);
            }
            return out;
        }""")
        assert small == []


# --- The second page ---


def test_step_8_says_what_becomes_of_the_shapes(open_page):
    page = open_page(PAGE.parent / "beyond.html")
    notes = page.locator("#step-8 .notes")
    source = FILES["08_batched_heads"].read_text(encoding="utf-8")
    for name in ("view", "permute", "transpose", "reshape"):
        assert f".{name}(" in notes.inner_text()
        assert f".{name}(" in source
    seen = LEARNING["08_batched_heads"]["evaluations"]
    assert page.locator("#step-8 .learn .sample").text_content() == seen[0][3]
    page.locator("#step-8 .learn input").fill("4")
    assert page.locator("#step-8 .learn .sample").text_content() == seen[4][3]


def test_the_exercises_of_the_readme_are_on_the_page(page):
    shown = page.locator("#exercises").inner_text()
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in re.findall(r"^- \*\*(EX\d)\*\*", readme, flags=re.M):
        assert name in shown
    for link in page.locator("#exercises a").all():
        href = link.get_attribute("href")
        assert href.startswith("https://") or (PAGE.parent / href.partition("#")[0]).exists()
    assert not re.search(r"<!--|\| ---|[`*]{2}", shown)  # nothing of the README's Markdown


def test_links_between_the_pages_lead_somewhere(open_page):
    for file in (PAGE, PAGE.parent / "beyond.html"):
        for link in open_page(file).locator("a").all():
            href = link.get_attribute("href")
            if not href.startswith("http"):
                name, _, place = href.partition("#")
                target = PAGE.parent / name if name else file
                assert target.exists(), href
                if place:
                    assert f'id="{place}"' in target.read_text(encoding="utf-8"), href
