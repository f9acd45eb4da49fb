"""The pages while a reader uses them: keys, long lines, opened rows, the navigation, paper."""

import re

import pytest
import test_live
from test_docs import build
from test_live import BEYOND, PAGE, PHONE, load_step_7, type_in

pytestmark = pytest.mark.slow
open_page, page = test_live.open_page, test_live.page
TABLET = {"width": 820, "height": 1180}
BOXES = """() => [...document.querySelectorAll("body *")].map((e) => {
    const { x, y, width, height } = e.getBoundingClientRect();
    return [e.className, x, y, width, height].join(" ");
})"""


def test_a_key_moves_nothing(page):
    page.locator("#write").focus()
    before = page.evaluate(BOXES)
    page.keyboard.press("Tab")
    assert page.evaluate(BOXES) == before


def test_a_key_shows_the_frame_and_only_the_pointer_takes_it_away(open_page):
    page = open_page(hash="#step=6")
    switches = page.locator("#row-6 .switches input")
    frame = (
        "() => [document.activeElement.type, getComputedStyle(document.activeElement).outlineStyle]"
    )
    switches.first.focus()
    page.keyboard.press("Space")
    page.wait_for_timeout(100)  # the inside is drawn again
    assert page.locator("#row-6 .now").inner_text().count("→") == 1
    assert page.evaluate(frame) == ["checkbox", "solid"]
    switches.nth(1).click()
    page.wait_for_timeout(100)
    assert page.evaluate(frame) == ["checkbox", "none"]
    changes = """() => {
        window.changes = 0;
        const watch = new MutationObserver((found) => (changes += found.length));
        watch.observe(document.body, { attributes: true });
    }"""
    page.locator("#line").press("End")
    page.evaluate(changes)
    page.locator("#line").press_sequentially("abc")
    assert page.evaluate("changes") == 0


def test_a_letter_costs_only_what_it_changes(page):
    """With row 7 open a letter is one position more; a letter too many changes no row."""
    load_step_7(page)
    page.evaluate("unfold(LARGE)")
    type_in(page, "To be, or not to be")
    page.evaluate("""() => {
        window.computed = 0;
        const { forward } = LanguageModel.prototype;
        LanguageModel.prototype.forward = function (idx, past) {
            if (this.block_size > 8) computed += idx.length;
            return forward.call(this, idx, past);
        };
    }""")
    page.locator("#line").press_sequentially(":")
    page.wait_for_timeout(200)
    assert page.evaluate("computed") == 1
    rows = page.locator("#row-7 .path tbody tr").count()
    assert rows == 1 + page.evaluate("WEIGHTS[LARGE].config.n_layer")
    type_in(page, "all that is too long for them ".ljust(64, "x"))
    page.evaluate("""() => {
        window.changes = 0;
        const watch = new MutationObserver((found) => (changes += found.length));
        const all = { subtree: true, childList: true, attributes: true };
        watch.observe(document.querySelector("#race"), all);
    }""")
    page.locator("#line").press_sequentially("yz")
    page.wait_for_timeout(200)
    assert page.evaluate("changes") == 0
    assert "2 more are left out" in page.locator("#note").inner_text()


@pytest.mark.parametrize("number", [3, 6, 7])
def test_a_row_that_is_opened_stays_where_it_is(open_page, number):
    page = open_page(viewport=TABLET)
    row, inside = page.locator(f"#row-{number} .row"), page.locator(f"#in-{number}")
    page.evaluate("scrollTo(0, 100)")
    top = row.bounding_box()["y"]
    row.locator(".name").click()
    inside.locator(".two").wait_for()
    page.wait_for_timeout(100)
    assert row.bounding_box()["y"] == pytest.approx(top, abs=1)
    row.locator(".name").click()  # and where its inside would be out of view, it moves by as little
    page.evaluate(
        "(n) => scrollTo(0, document.querySelector(`#row-${n}`).offsetTop - 1080)", number
    )
    if page.evaluate("scrollY") == 0:
        return
    row.locator(".name").click()
    page.wait_for_timeout(100)
    seen = TABLET["height"] - inside.bounding_box()["y"]
    assert seen == pytest.approx(300, abs=1)


def test_all_bars_keep_one_scale(page):
    tick = "document.querySelector('#row-1 .track b').getBoundingClientRect().x"
    before = page.evaluate(tick)
    assert page.locator(".track.over").count() == 0
    type_in(page, "qxzjqxzj")
    assert float(page.locator("#row-1 output").first.inner_text()) > 3
    assert page.evaluate(tick) == before
    assert page.locator("#row-1 .track.over").count() == 1
    assert page.locator("#row-1 .track i").evaluate("(i) => i.getBoundingClientRect().width") == (
        page.locator("#row-1 .track").evaluate("(i) => i.getBoundingClientRect().width")
    )


@pytest.mark.parametrize("width", [390, 360, 320])
def test_off_stands_beside_the_name_on_a_phone_and_moves_no_row(open_page, width):
    page = open_page(viewport={"width": width, "height": 844})
    heights, names = page.evaluate("""() => {
        const tall = () => all("#race .row").map((e) => e.offsetHeight);
        const linesOf = ({ firstChild }) => {
            const range = document.createRange();
            range.selectNode(firstChild);
            return [...range.getClientRects()];
        };
        const before = tall();
        for (const { name } of STEPS.slice(1)) state.off[name] = "positions";
        rows.forEach(drawRow);
        const names = rows.slice(1).map(({ row, part }, i) => {
            const lines = linesOf($(".name b", row)), own = part.getBoundingClientRect();
            const over = ({ left, right, top, bottom }) =>
                left < own.right && right > own.left && top < own.bottom && bottom > own.top;
            return [lines.length, lines.some(over), own.width > 0, before[i + 1], tall()[i + 1]];
        });
        return [before, names];
    }""")
    assert len(heights) == 7
    for lines, overlaps, seen, before, after in names:
        assert seen
        assert not overlaps
        assert lines > 1 or before == after


@pytest.mark.parametrize("width", [390, 360])
@pytest.mark.parametrize("where", ["#row-1", "#figure-1"])
def test_a_tap_on_the_table_moves_it_nowhere(open_page, where, width):
    hash = "#step=1" if where == "#row-1" else ""
    page = open_page(hash=hash, viewport={"width": width, "height": 844}, has_touch=True)
    canvas, lead = page.locator(f"{where} canvas").first, page.locator(f"{where} .lead")
    page.evaluate("(e) => e.scrollIntoView({ block: 'center' })", canvas.element_handle())
    assert "stands last" in lead.inner_text()
    before = canvas.bounding_box()["y"]
    canvas.tap(position={"x": 40, "y": 30})
    lead.get_by_text("what would follow").wait_for()
    assert canvas.bounding_box()["y"] == pytest.approx(before, abs=0.5)


def test_a_switch_moves_no_switch(open_page):
    """Also below a sentence that speaks of the picture, and where a block is skipped."""
    page = open_page(viewport={"width": 1200, "height": 900})
    for number in (2, 3, 6):
        top = f"$('#figure-{number} .switches').getBoundingClientRect().top + scrollY"
        before = page.evaluate(top)
        for key in ("positions", "even", "b1")[: 2 + (number == 6)]:
            page.locator(f"#figure-{number} [data-keep={key}]").click()
            assert page.evaluate(top) == pytest.approx(before, abs=0.1), (number, key)
    said = page.locator("#figure-6 .said").first.inner_text
    assert "in this picture" in said()
    page.reload()
    assert said().count("in this picture") == 2
    type_in(page, "Hamlet")
    page.locator("#figure-6").scroll_into_view_if_needed()
    page.wait_for_function("document.querySelector('#figure-6 .typed').textContent === 'Hamlet'")
    page.wait_for_function(
        "document.querySelector('#figure-6 .said').textContent.split('in this').length === 2"
    )


def test_selected_text_stays_selected_while_they_write(open_page):
    page = open_page(reduced_motion="no-preference")
    longer = "(n) => document.querySelector('#row-6 .w').textContent.length > n"
    page.locator("#write").click()
    page.wait_for_function(longer, arg=9)
    box = page.locator("#row-6 .w").bounding_box()
    page.mouse.move(box["x"] + 4, box["y"] + 12)
    page.mouse.down()
    page.mouse.move(box["x"] + 60, box["y"] + 12, steps=4)
    selected = page.evaluate("String(getSelection())")
    assert len(selected) > 3
    page.wait_for_function(longer, arg=15)
    assert page.evaluate("writing")
    assert page.evaluate("String(getSelection())") == selected
    page.mouse.up()
    page.wait_for_function(longer, arg=18)
    assert page.evaluate("String(getSelection())") == selected
    assert page.evaluate("[state.open, scrollY]") == [None, 0]


def test_a_copied_line_is_what_is_seen_of_it(page):
    type_in(page, "KING")
    copied = page.evaluate("""() => {
        document.body.append(make("textarea", { id: "pasted" }));
        const { typed, wrote, line } = rows[5];
        wrote.append(" a↵b");
        const range = document.createRange();
        range.setStart(typed.firstChild.firstChild, 0);
        range.setEnd(wrote.firstChild, 4);
        document.activeElement.blur();
        getSelection().removeAllRanges();
        getSelection().addRange(range);
        return line.textContent;
    }""")
    assert "Least expected" in copied
    page.keyboard.press("Control+C")
    page.locator("#pasted").focus()
    page.keyboard.press("Control+V")
    assert page.locator("#pasted").input_value() == "KING a\nb"


def test_back_comes_to_where_the_reader_was_though_a_row_is_open_now(open_page):
    page = open_page(viewport={"width": 1280, "height": 900})
    there = "(id) => Math.abs(document.getElementById(id).getBoundingClientRect().top - 54) < 2"

    def go(link, id):  # by the mouse alone: Playwright's click may scroll first
        box = page.locator("nav.steps a", has_text=link).bounding_box()
        page.mouse.click(box["x"] + 5, box["y"] + 8)
        page.wait_for_function(there, arg=id)

    go("3 Multi", "step-3")
    page.evaluate("scrollBy(0, 300)")
    page.wait_for_function("scrollY && history.state?.top < -240")
    go("Data", "data")
    page.evaluate("scrollTo(0, 0)")
    page.evaluate("unfold(STEPS[5].name)")
    page.wait_for_function("location.hash.includes('step=6')")
    page.go_back()
    lower = there.replace("- 54", "+ 246")
    page.wait_for_function(lower, arg="step-3")
    assert page.locator("#in-6 .switches").count() == 1  # the moment is kept
    page.reload()
    page.wait_for_function(lower, arg="step-3")


def test_the_field_that_is_typed_in_stays_where_it_is(open_page):
    page = open_page(viewport=PHONE)
    field = page.locator("#line-3")
    field.fill("a" * 30)
    field.evaluate("(e) => e.scrollIntoView({ block: 'center' })")
    drawn = "() => new Promise((done) => requestAnimationFrame(() => setTimeout(done, 20)))"
    page.evaluate(drawn)
    before = field.bounding_box()
    for i in range(12):
        page.keyboard.press("b")
        page.evaluate(drawn)
        assert field.bounding_box()["y"] == pytest.approx(before["y"], abs=0.6), i
    assert field.bounding_box()["height"] > before["height"]


def test_a_note_stands_below_the_field_in_use(page):
    page.locator("#line-3").fill("Hamlet is here")
    assert page.locator(".told:visible").count() == 0
    page.locator("#line-3").fill("Hamlet is here é")
    told = page.locator("#figure-3 .told")
    assert told.inner_text() == "Not in the text they learnt from, so left out: é"
    assert page.locator(".told:visible").count() == 1
    page.locator("#line").fill("Hamlet is here é€")
    assert page.locator(".told:visible").count() == 0
    assert page.locator("#note").inner_text().endswith("left out: é €")


def test_the_focus_goes_on_to_the_panel_that_replaces_the_button(page):
    load = page.locator("#figure-7 .load")
    load.focus()
    load.press("Enter")
    page.locator("#figure-7 .switches").wait_for()
    first = "document.querySelector('#figure-7 .inside :is(button, input)')"
    page.wait_for_function(f"document.activeElement === {first}")


def test_home_and_end_go_to_the_ends_of_a_row_and_scroll_nothing(open_page):
    page = open_page(hash="#step=6&line=my lord!")
    ends = {
        "#row-6 [data-keep=grid]": ("#row-6 .cell-name", "“!” looks at “m”", "“!” looks at “!”"),
        "#figure-1 [data-keep=table]": ("#figure-1 .chosen", "“↵” after “!”", "“z” after “!”"),
    }
    for picture, (place, *said) in ends.items():
        page.locator(picture).focus()
        before = page.evaluate("scrollY")
        for key, words in zip(("Home", "End"), said, strict=True):
            page.keyboard.press(key)
            page.locator(place, has_text=words).wait_for()
            assert page.evaluate("scrollY") == before


@pytest.mark.parametrize("viewport", [{"width": 1280, "height": 900}, TABLET])
def test_a_share_is_as_wide_in_each_step(open_page, viewport):
    page = open_page(viewport=viewport)
    load_step_7(page)
    script = """(all) => all.map((e) => [e, Number(e.style.getPropertyValue("--p"))])
        .filter(([, p]) => p > 0.1)
        .map(([e, p]) => e.firstChild.getBoundingClientRect().width / p)"""
    found = []
    for number in range(2, 8):
        page.evaluate("(n) => unfold(STEPS[n - 1].name)", number)
        page.locator(f"#row-{number} .soft .share").first.wait_for()
        found += page.locator(f"#row-{number} .soft .share").evaluate_all(script)
    assert len(found) > 6
    assert max(found) - min(found) < 1


def test_the_navigation_marks_where_the_reader_is_and_shows_that_there_is_more(open_page):
    page = open_page()
    marked = page.locator("nav [aria-current]")
    for place, link in (("ladder", "Seven steps"), ("averages", "Averaging")):
        page.evaluate("(id) => document.getElementById(id).scrollIntoView()", place)
        page.wait_for_timeout(200)
        assert marked.all_inner_texts() == [link]
    bar = """() => {
        const { scrollWidth, clientWidth, className } = document.querySelector("nav.steps");
        return [scrollWidth > clientWidth, className];
    }"""
    laptop = {"width": 1280, "height": 900}
    assert open_page(viewport=laptop).evaluate(bar) == [False, "steps"]
    for viewport in (laptop, PHONE):
        page = open_page(BEYOND, viewport=viewport)
        page.wait_for_timeout(100)
        assert page.evaluate(bar) == [True, "steps one-line more-after"]
        page.evaluate("document.querySelector('nav.steps').scrollLeft = 1e5")
        page.wait_for_timeout(100)
        assert page.evaluate(bar) == [True, "steps one-line more-before"]


@pytest.mark.parametrize("file", [PAGE, BEYOND])
def test_flags_and_percentages_are_not_broken(open_page, file):
    page = open_page(file, viewport=PHONE)
    broken = "(all) => all.filter((e) => e.getClientRects().length > 1).map((e) => e.textContent)"
    flags = page.locator("p .flag, dd .flag, figcaption .flag")
    assert flags.evaluate_all(broken) == []
    assert flags.count()
    text = re.sub(
        r"<(script|style|pre|svg)\b.*?</\1>", "", file.read_text(encoding="utf-8"), flags=re.S
    )
    assert not re.search(r"\d %", text)


@pytest.mark.parametrize("file", [PAGE, BEYOND])
def test_paper_has_the_answers_and_no_invitation_to_click(open_page, file):
    page = open_page(file, viewport={"width": 720, "height": 1000})
    page.emulate_media(media="print")
    asked, answers = page.locator(".step > .intro .ask").all(), page.locator(".paper li").all()
    assert len(asked) == len(answers) == (7 if file == PAGE else 0)
    assert all(one.is_visible() for one in [*asked, *answers])
    assert not any(one.is_visible() for one in page.locator(".ask p").all())  # a sheet to fill in
    text = page.evaluate("document.body.innerText")
    for word in (
        "Choose a step",
        "tap another",
        "Load step 7",
        "Try it.",
        "Train\n",
        "arrow keys",
        "drag one",
    ):
        assert word not in text
    inside_words = """() => [...document.querySelectorAll("#race .c")].filter((c) => {
        const next = c.nextElementSibling;
        if (!next || [c, next].some(({ textContent }) => textContent === " ")) return false;
        return next.offsetTop > c.offsetTop + 4;
    }).map((c) => c.textContent)"""
    assert page.evaluate(inside_words) == []


def test_the_axis_of_the_race_ends_at_a_number_that_it_names():
    found = build.read_results([])["race"]
    picture = build.charts.seconds_figure(found)
    shown = [int(number) for number in re.findall(r">(\d+)</text>", picture)]
    ms = found["times"][0]["ms"]
    runs = [
        (sum(losses), int(n) * sorted(ms[name])[len(ms[name]) // 2] / 1000)
        for name, rows in found["losses"].items()
        for n, losses in rows.items()
        if name in ms
    ]
    assert max(shown) >= min(runs)[1]  # the seconds of the lowest loss
