"""The page in a browser as a reader meets it: typed, tapped, printed, heard, with little room."""

import shutil
import statistics

import pytest
import test_live
import torch
from conftest import TABLE, load
from test_docs import LESSONS, RESULTS, VIDEO
from test_live import (
    BESIDE,
    BEYOND,
    CHOSEN,
    PAGE,
    PHONE,
    TOKENIZER,
    load_step_7,
    losses_of,
    read,
    rounded,
    type_in,
)

pytestmark = pytest.mark.slow
open_page, page = test_live.open_page, test_live.page  # fixtures
WIDER = "(all) => all.filter((e) => e.checkVisibility() && e.scrollWidth > e.clientWidth).length"


def test_the_first_line_goes_as_measured_and_step_7_needs_no_weights(page):
    assert page.locator("#line").input_value() == CHOSEN["line"]
    assert page.evaluate("WEIGHTS['07_full_gpt']") is None
    tokens = TOKENIZER.encode(CHOSEN["line"])
    shown = []
    for i, name in enumerate(VIDEO, 1):
        model, block_size = rounded(name)
        losses = losses_of(model, block_size, tokens)
        shown.append(float(page.locator(f"#row-{i} output").inner_text()))
        assert shown[-1] == pytest.approx(statistics.mean(losses), abs=0.0051)
        shades = "(all) => all.map((e) => Number(e.style.getPropertyValue('--s')))"
        orange = page.locator(f"#row-{i} .c").evaluate_all(shades)
        assert orange[1:] == pytest.approx([min(1, loss / 6) for loss in losses], abs=0.001)
        logits, _ = read(model, tokens[-block_size:])
        best = logits.topk(3).indices.tolist()
        letters = page.locator(f"#row-{i} .guess code").all_text_contents()
        assert letters == [TOKENIZER.chars[token].replace(" ", "space") for token in best]
    measured = [RESULTS[name]["val_loss"] for name in VIDEO]
    order = sorted(range(7), key=measured.__getitem__)
    assert sorted(range(7), key=shown.__getitem__) == order


def test_the_address_holds_the_moment(open_page):
    page = open_page()
    type_in(page, "Hamlet is")
    page.locator("#row-3 .c").nth(2).click()
    page.locator("#row-5 .name").click()
    page.locator("#row-5 .thumb").nth(7).click()
    page.locator("#row-5 [data-t='1'][data-s='0']").click()
    page.locator("#row-5 .switches input").nth(1).check()
    page.locator("#temperature").fill("0.5")
    page.locator("#figure-4 .switches input").nth(2).check()  # of another step than the open one
    page.locator("#figure-1 .square").press("ArrowDown")
    page.wait_for_function("location.hash.includes('off4') && location.hash.includes('cell1')")
    shown = ["#race", "#figure-1 .inside", "#figure-4 .inside"]
    said = [page.locator(one).inner_text() for one in shown]
    again = open_page(hash=page.evaluate("location.hash"))
    again.wait_for_function("WEIGHTS['07_full_gpt']")
    again.wait_for_function("!document.querySelector('#row-7 .asleep').textContent")
    assert [again.locator(one).inner_text() for one in shown] == said
    assert again.locator("#line").input_value() == "Hamlet is"
    assert again.locator("#row-5 .thumb").nth(7).get_attribute("aria-pressed") == "true"
    again.locator("nav.steps a", has_text="3 Multi").click()  # a section keeps the moment
    again.wait_for_function("location.hash.includes('to=step-3')")
    third = open_page(hash=again.evaluate("location.hash"))
    assert third.locator("#line").input_value() == "Hamlet is"
    assert abs(third.locator("#step-3").bounding_box()["y"]) < 120
    third.evaluate("location.hash = '#line=my lord&step=4'")  # what it does not name is gone
    third.locator("#in-4 .switches").wait_for()
    assert third.locator("#in-4 input:checked").count() == 0
    assert third.evaluate("Object.values(state.off).join('')") == ""


def test_try_it_sets_the_figure_beside_it_and_leaves_the_line(open_page):
    page = open_page()
    type_in(page, "Hamlet is")
    links = page.locator(".figure a[href*='off=']").all()
    assert len(links) > 4
    for link in links:
        step = link.get_attribute("href").split("step=")[1][0]
        off = link.get_attribute("href").split("off=")[1]
        for _ in range(2):  # also when it is used again
            link.click()
            before = link.bounding_box()["y"]
            box = page.locator(f"#figure-{step} [data-keep='{off}']")
            assert box.is_checked()
            bottom = page.locator(f"#figure-{step} .now").bounding_box()["y"]
            assert before < bottom < before + 700
            box.uncheck()
    assert page.locator("#line").input_value() == "Hamlet is"


def test_a_position_is_chosen_by_pointer_and_keys(page):
    type_in(page, "Hamlet is")
    chosen = "#row-6 .c.at"
    heights = "[...document.querySelectorAll('#race > li')].map((e) => e.offsetHeight)"
    before = page.evaluate(heights)
    page.locator("#row-6 .c").nth(4).hover()  # shown for as long as the pointer is there
    page.wait_for_function("document.querySelector('#row-6 .c.at').textContent === 'e'")
    assert page.evaluate(heights) == before  # nothing moves under the pointer
    page.locator("h1").hover()
    page.wait_for_function("document.querySelector('#row-6 .c.at').textContent === 's'")
    page.locator("#row-6 .c").nth(3).click()
    for key, char in (("ArrowLeft", "m"), ("End", "s"), ("ArrowLeft", "i")):
        page.keyboard.press(key)
        page.wait_for_timeout(50)
        assert page.locator(chosen).inner_text() == char
    right = page.locator("#row-6 .guess .true code").all_text_contents()
    assert right in ([], ["s"])  # the line goes on with an s


def test_unknown_characters_are_struck_out_in_their_place(page):
    top = page.locator("#race").bounding_box()["y"]
    type_in(page, "café €")
    assert page.locator("#note").inner_text().endswith("learnt from, so left out: é €")
    assert page.locator("#race").bounding_box()["y"] == top  # the note has its place
    letters = page.locator("#row-6 .c").all_text_contents()
    assert "".join(letters) == "café €"
    assert page.locator("#row-6 .unknown").all_text_contents() == ["é", "€"]
    expected = statistics.mean(losses_of(*rounded(VIDEO[5]), TOKENIZER.encode("caf ")))
    assert page.locator("#row-6 output").inner_text() == f"{expected:.2f}"
    type_in(page, "“Come–he’s”" + 60 * "z")
    assert page.locator("#note").inner_text().startswith("Only the first 64 characters are read")
    assert page.locator("#row-6 .typed").text_content() == "'Come-he's'" + 53 * "z"
    assert page.locator("#row-6 .unknown").count() == 0
    type_in(page, "")
    assert "line break" in page.locator("#note").inner_text()
    logits, _ = read(rounded(VIDEO[5])[0], [0])
    best = TOKENIZER.chars[logits.argmax().item()]
    assert page.locator("#row-6 .guess code").first.text_content() == best.replace("\n", "↵")


def test_temperature_reshapes_the_bars_and_stops_nothing(open_page):
    page = open_page(reduced_motion="no-preference")
    type_in(page, "KING")
    for temperature in ("0.5", "1.5"):
        page.locator("#temperature").fill(temperature)
        logits, _ = read(rounded(VIDEO[5])[0], TOKENIZER.encode("KING"))
        best = 100 * (logits / float(temperature)).softmax(dim=0).max().item()
        said = page.locator("#row-6 .guess small").first.inner_text()
        assert float(said.split()[0]) == pytest.approx(best, abs=0.51)
    length = "(n) => document.querySelector('#row-7 .w').textContent.length > n"
    page.locator("#write").click()
    page.wait_for_function(length, arg=3)
    page.locator("#temperature").fill("0.3")
    page.wait_for_function(length, arg=12)
    page.locator("#write").click()
    assert page.locator("#write").inner_text() == "Write anew"


def test_all_write_and_the_same_line_writes_the_same(open_page):
    found = []
    for _ in range(2):
        page = open_page()
        type_in(page, "KING")
        page.locator("#write").click()
        page.wait_for_function("document.querySelector('#write').textContent === 'Write anew'")
        found.append(page.locator("#race .w").all_text_contents())
        assert len({len(text) for text in found[-1]}) == 1
        assert len(set(found[-1])) == 7
    assert found[0] == found[1]
    page.locator("#write").click()  # with other random numbers
    page.wait_for_function("document.querySelector('#write').textContent === 'Stop'")
    page.wait_for_function("document.querySelector('#write').textContent === 'Write anew'")
    assert page.locator("#race .w").all_text_contents() != found[0]


def test_the_table_of_step_1_is_read_by_row(page):
    page.locator("#row-1 .name").click()
    box = page.locator("#row-1 canvas").bounding_box()
    token = TOKENIZER.stoi["q"]
    page.mouse.click(box["x"] + 9, box["y"] + (token + 0.5) * box["height"] / 65)
    logits, _ = read(rounded(VIDEO[0])[0], [token])
    row = page.locator("#row-1 .soft tbody tr").first.inner_text().split()
    assert row[0] == "u"
    page.keyboard.press("ArrowUp")
    assert "“p”" in page.locator("#row-1 .lead").inner_text()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowRight")
    assert page.locator("#row-1 .said").first.inner_text().startswith("“␣” after “q”")
    assert float(row[-2]) == pytest.approx(100 * logits.softmax(dim=0).max().item(), abs=0.051)


def test_a_missing_file_is_named_and_asked_for_again(open_page, tmp_path):
    shutil.copy(PAGE, tmp_path)
    page = open_page(tmp_path / "index.html", viewport=PHONE)
    page.locator("#row-7 .name").click()
    page.locator("#in-7", has_text="was not found beside this page").wait_for()
    assert page.locator("#row-7 .asleep").inner_text() == "weights not found"
    (said,) = open_page.noise
    assert "ERR_FILE_NOT_FOUND" in said
    open_page.noise.clear()
    shutil.copy(BESIDE, tmp_path)
    page.locator("#in-7 button", has_text="Try again").click()
    page.locator("#in-7 .switches").wait_for()


def test_the_slider_shows_what_was_measured(open_page):
    for file, names in ((PAGE, VIDEO), (BEYOND, LESSONS)):
        page = open_page(file)
        for name in names:
            box = page.locator(f"[data-learn='{name}']")
            for i, (step, train, val, sample) in enumerate(RESULTS[name]["evaluations"]):
                box.locator("input").fill(str(i))
                said = f"optimiser step {step}: train loss {train:.2f}, val loss {val:.2f}"
                assert box.locator(".at").inner_text() == said
                assert box.locator(".sample").text_content() == sample


def test_the_average_that_is_printed_is_that_of_its_terms(page):
    for scores in ((0, 0, 0, 0), (0, 4, 0, 0), (1, 2, -1, 0.3)):
        for i, score in enumerate(scores):
            page.locator(".scores input").nth(i).fill(str(score))
        terms, total = page.locator(".weighted").inner_text().split(" = ")
        pairs = [tuple(map(float, term.split(" · "))) for term in terms.split(" + ")]
        assert sum(w for w, _ in pairs) == pytest.approx(1)
        assert f"{sum(w * x for w, x in pairs):.2f}" == total
        weights = torch.tensor(scores, dtype=torch.float).softmax(dim=0)
        assert [w for w, _ in pairs] == pytest.approx(weights.tolist(), abs=0.01)


def test_a_line_is_cut_as_lesson_17_cuts_it(open_page):
    page = open_page(BEYOND)
    lesson = load("17_tokens")
    merges = [tuple(pair) for pair in CHOSEN["merges"]]
    page.locator("#token-line").fill("so% é")  # what has no token stays
    assert page.locator(".cut .unknown").all_text_contents() == ["%", "é"]
    assert "without a token: % é" in page.locator(".count").inner_text()
    line = "What, say you so? King-like 'tis\n my lord!"
    page.locator("#token-line").fill(line)
    for n in (0, 1, 40, len(merges)):
        tokenizer = lesson.PairTokenizer(TOKENIZER.chars, merges[:n])
        page.locator("#token-slider").fill(str(65 + n))
        expected = [tokenizer.pieces[token] for token in tokenizer.encode(line)]
        shown = [text.replace(" ", "␣").replace("\n", "↵") for text in expected]
        assert page.locator(".cut span").all_text_contents() == shown
        assert (
            f"{len(line)} characters are {len(shown)} of them"
            in page.locator(".count").inner_text()
        )


def test_text_can_be_selected_and_a_large_loss_fits(page):
    page.locator("#write").click()
    page.wait_for_function("document.querySelector('#write').textContent === 'Write anew'")
    box = page.locator("#row-7 .w").bounding_box()
    page.mouse.move(box["x"] + 2, box["y"] + 12)
    page.mouse.down()
    page.mouse.move(box["x"] + 60, box["y"] + 12, steps=4)
    page.mouse.up()
    assert page.evaluate("getSelection().toString().length") > 2
    assert page.locator("#row-7 .name").get_attribute("aria-expanded") == "false"
    for width in (1200, 820, 390):
        page.set_viewport_size({"width": width, "height": 900})
        heights = []
        for text in ("2.59", "12.34"):
            page.evaluate("(text) => (document.querySelector('output').textContent = text)", text)
            heights.append(page.locator("#row-1 .row").bounding_box()["height"])
            assert (
                page.locator("#row-1 .loss output").evaluate("(e) => e.getClientRects().length")
                == 1
            )
        assert heights[0] == heights[1]


def test_a_key_says_one_thing_and_letters_are_no_separate_texts(page):
    assert page.evaluate("document.activeElement === document.body")  # Space still scrolls
    live = "#race output:not([aria-live=off]), #race [role=status], #race [aria-live=polite]"
    page.locator("#row-5 .name").click()
    assert page.locator(live).count() == 0
    assert page.locator("#race .typed:not([aria-hidden])").count() == 0
    type_in(page, "Hamlet q")
    loss = page.locator("#row-6 output").inner_text()
    said = "(text) => document.querySelector('#said').textContent.includes(text)"
    page.wait_for_function(said, arg=f"step 6 {loss}, next ")
    assert page.locator("#row-6 .least").text_content().startswith("Least expected: “q”")
    page.locator("#write").click()
    page.wait_for_function(said, arg="Step 7 wrote")


def test_no_page_scrolls_sideways_and_what_belongs_together_is_in_sight(open_page):
    page = open_page()
    load_step_7(page)
    for number in (2, 7):
        page.locator(f"#row-{number} .name").click()
        page.locator(f"#row-{number} .switches").wait_for()
        for width in (320, 344, 390, 820, 1100, 1110, 1280):
            page.set_viewport_size({"width": width, "height": 800})
            found = page.evaluate("document.documentElement.scrollWidth")
            assert found == width, (number, width)
    assert page.locator(".lines").evaluate_all(WIDER) == 0  # at 1280
    beyond = open_page(BEYOND, viewport={"width": 340, "height": 800})
    assert beyond.evaluate("document.documentElement.scrollWidth") == 340
    page = open_page(hash="#step=6", viewport={"width": 1280, "height": 800})
    page.locator("#row-6 .switches").wait_for()
    now = page.locator("#row-6 .switches .now").bounding_box()
    assert page.locator("#row-6 .line").bounding_box()["y"] > 0
    assert now["y"] + now["height"] < 800
    assert page.locator("#row-6 .thumb small").all_text_contents() == 3 * list("1234")
    page.set_viewport_size({"width": 820, "height": 900})
    grid = page.locator("#row-6 .two svg").first.bounding_box()
    assert page.locator("#row-6 .cell-name").bounding_box()["x"] > grid["x"] + grid["width"]
    page.set_viewport_size(PHONE)
    cell = page.locator("#row-6 [data-t='7'][data-s='6']").bounding_box()
    assert page.locator("#row-6 .num").first.bounding_box()["y"] - cell["y"] < 500


CONTRAST = """(all) => {
    const paint = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
    const light = (...colours) => {
        for (const [colour, alpha] of colours) {
            Object.assign(paint, { globalAlpha: alpha, fillStyle: colour });
            paint.fillRect(0, 0, 1, 1);
        }
        const linear = [...paint.getImageData(0, 0, 1, 1).data].map((c) => (c / 255) ** 2.2);
        return 0.05 + 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
    };
    const paper = [getComputedStyle(document.body).backgroundColor, 1];
    return Math.min(...all.map((e) => {
        const own = getComputedStyle(e), cell = getComputedStyle(e.previousElementSibling ?? e);
        const svg = e.matches(".pct");
        const under = svg ? [cell.fill, Number(cell.fillOpacity)] : [own.backgroundColor, 1];
        const [x, y] = [light(paper, under), light([svg ? own.fill : own.color, 1])];
        return Math.max(x / y, y / x);
    }));
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_letters_and_digits_can_be_read_on_every_colour(open_page, scheme):
    page = open_page(hash="#step=6&line=qZ xjz Kw, I swear&at=3", color_scheme=scheme)
    page.locator("#row-6 .pct").first.wait_for()
    assert page.locator("#row-6 .c").evaluate_all(CONTRAST) >= 4.5
    assert page.locator("#row-6 .pct").evaluate_all(CONTRAST) >= 4.5
    said = page.locator("#figure-1").inner_text()
    assert "The stronger a mark, the likelier" in said  # darker or lighter, as the scheme is


@pytest.mark.parametrize("settings", [{"forced_colors": "active"}, {"media": "print"}])
def test_surprise_and_code_survive_print_and_forced_colours(open_page, settings):
    page = open_page(viewport={"width": 700, "height": 900})
    page.emulate_media(**settings)
    colours = "(all) => all.map((e) => getComputedStyle(e).backgroundColor)"
    assert len(set(page.locator("#row-6 .c").evaluate_all(colours))) > 5
    kept = "(e, key) => getComputedStyle(e)[key]"
    for selector in ("#row-6 .c", "#row-6 .bar", "#row-6 .track i"):
        one = page.locator(selector).first
        if "media" in settings:
            assert one.evaluate(kept, "printColorAdjust") == "exact"
        else:
            assert one.evaluate(kept, "forcedColorAdjust") == "none"
    unseen = page.locator("#row-6 .c:not(.sees)").first.evaluate(kept, "borderBottomColor")
    assert unseen == "rgba(0, 0, 0, 0)"
    if "media" in settings:
        assert page.locator(".lines").evaluate_all(WIDER) == 0


def test_a_part_that_is_off_is_said_on_a_phone(open_page):
    page = open_page(hash="#step=6&off=positions", viewport=PHONE)
    part = page.locator("#row-6 .part")
    assert part.inner_text() == "a part is off"
    assert part.evaluate("(e) => getComputedStyle(e).transform") == "none"
    assert page.evaluate("getComputedStyle($('#row-6 .name b'), '::after').content") == '""'


def test_thirty_seconds(open_page):
    """What they learnt from, what orange means and which way is better, before anything moves."""
    page = open_page(viewport={"width": 1280, "height": 800})
    said = page.locator(".opening").inner_text()
    assert all(word in said for word in ("Shakespeare", "Orange", "lower is better"))
    sizes = "(all) => Math.min(...all.map((e) => parseFloat(getComputedStyle(e).fontSize)))"
    assert page.locator(".opening li, .legend span").evaluate_all(sizes) >= 15
    page.locator("[data-line=hello]").click()
    assert "Step 1 is best, step 6 worst" in page.locator("#note").inner_text()
    page.wait_for_function("document.querySelector('#row-7 .asleep').textContent === ''")
    shown = [float(page.locator(f"#row-{n} output").inner_text()) for n in range(1, 8)]
    assert min(shown) == shown[0]
    assert max(shown) == shown[5]
    for n, name in enumerate(VIDEO, 1):
        mean = page.locator(f"#row-{n} .aside").inner_text()
        assert mean == f"unseen text {RESULTS[name]['val_loss']:.2f}"
        assert page.locator(f"#row-{n} .name b").inner_text() == TABLE[name]["title"]


def test_the_navigation_marks_the_step_that_is_read(open_page):
    page = open_page(hash="#step-5")
    page.locator("nav.steps [aria-current]", has_text="5 Blocks").wait_for()
    page.keyboard.press("Tab")
    page.evaluate("scrollTo(0, 0)")
    page.locator("nav.steps [aria-current]", has_text="Your line").wait_for()
