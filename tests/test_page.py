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
    assert open_page(BEYOND, viewport={"width": 1280, "height": 900}).evaluate(bar) == [
        False,
        "steps",
    ]
    phone = open_page(BEYOND, viewport=PHONE)
    phone.wait_for_timeout(100)
    assert phone.evaluate(bar) == [True, "steps more-after"]
    phone.evaluate("document.querySelector('nav.steps').scrollLeft = 1e5")
    phone.wait_for_timeout(100)
    assert phone.evaluate(bar) == [True, "steps more-before"]


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
    answers = page.locator(".ask p").all()
    assert all(one.evaluate("(e) => e.getBoundingClientRect().height > 10") for one in answers)
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
    last = max(
        int(n) * sorted(ms[name])[len(ms[name]) // 2] / 1000
        for name, rows in found["losses"].items()
        for n in rows
        if name in ms
    )
    assert max(shown) >= last
