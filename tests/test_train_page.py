"""What the page trains is what torch trains, and the path through the blocks is that of torch."""

import json
import re

import pytest
import test_live
import torch
import torch.nn.functional as F
from conftest import load
from test_live import CHOSEN, ENTRIES, KEPT, PAGE, PHONE, RESULTS, TOKENIZER, VIDEO, export, rounded

from common.download import SAMPLE, TINY_SHAKESPEARE

pytestmark = pytest.mark.slow
open_page = test_live.open_page
V, B, T = TOKENIZER.vocab_size, 32, 8
LEFT = r"^[\d,]+ of [\d,]+ steps, (a few seconds|about \d+ (seconds|minutes?)) left$"
MODELS = {"01_bigram": "Bigram", "02_self_attention": "SelfAttention"}
DATA = re.search(r'id="train-data">(.*?)</script>', PAGE.read_text(encoding="utf-8"))[1]
TEXT = json.loads(DATA)["text"]


def taken_from_torch(name, positions):
    """A model of the script in float64, as exact as the page; one without positions gets zeros."""
    torch.manual_seed(3)
    step = load(name)
    model = step.LanguageModel(step.Config(), V).double()
    if not positions:
        model.position_embedding.weight.requires_grad_(False).zero_()
    return model, step.Config().learning_rate


@pytest.mark.parametrize(
    ("name", "positions", "steps"),
    [("01_bigram", True, 100), ("02_self_attention", True, 40), ("02_self_attention", False, 40)],
    ids=["step 1", "step 2", "step 2 without positions"],
)
def test_the_losses_and_weights_are_those_of_torch(open_page, name, positions, steps):
    model, learning_rate = taken_from_torch(name, positions)
    learnt = {key: p for key, p in model.named_parameters() if p.requires_grad}
    start = {key: p.flatten().tolist() for key, p in learnt.items()}
    tokens = torch.randint(V, (steps, B, T + 1))
    tokens[:, :, 5:] = tokens[:, :, 4:-1]  # there is something to learn
    x, y = tokens[..., :-1], tokens[..., 1:]
    batches = [[x[i].flatten().tolist(), y[i].flatten().tolist()] for i in range(steps)]
    script = """([name, positions, learning_rate, start, batches]) => {
        const Model = { Bigram, SelfAttention }[name];
        const model = new Model({ V: 65, C: 32, T: 8, positions, random: generator(1) });
        const found = Object.fromEntries(parametersOf(model));
        if (String(Object.keys(found).sort()) !== String(Object.keys(start).sort())) return null;
        for (const [key, { data }] of Object.entries(found)) data.set(start[key]);
        const optimizer = new AdamW(model, learning_rate);
        const losses = batches.map((batch) =>
            trainStep(model, optimizer, batch.map((tokens) => Int32Array.from(tokens))));
        return [losses, Object.entries(found).map(([key, { data }]) => [key, [...data]])];
    }"""
    passed = [MODELS[name], positions, learning_rate, start, batches]
    losses, weights = open_page().evaluate(script, passed)
    optimizer = torch.optim.AdamW(learnt.values(), lr=learning_rate)
    expected = []
    for i in range(steps):
        _, loss = model(x[i], y[i])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        expected.append(loss.item())
    assert expected[-1] < expected[0]
    assert losses == pytest.approx(expected, abs=1e-9)
    for key, values in weights:
        found = torch.tensor(values, dtype=torch.float64)
        torch.testing.assert_close(found, learnt[key].detach().flatten(), rtol=0, atol=1e-8)


@torch.no_grad()
def held_out(name, weights):
    """Torch's loss of these weights on the last tenth of the page's text, and the last looks."""
    step = load(name)
    model = step.LanguageModel(step.Config(), V).double()
    if "position_embedding.weight" not in weights and name != "01_bigram":
        model.position_embedding.weight.zero_()
    state = model.state_dict()
    for key, values in weights.items():
        state[key].copy_(torch.tensor(values).view_as(state[key]))
    tokens = torch.tensor(TOKENIZER.encode(TEXT))[int(0.9 * len(TEXT)) :]
    n = (len(tokens) - 1) // T
    x, y = tokens[: n * T].view(n, T), tokens[1 : n * T + 1].view(n, T)
    looks = None
    if name != "01_bigram":
        head, kept = model.attention, {}
        hook = head.register_forward_hook(lambda head, given, out: kept.update(x=given[0]))
        model(x)
        hook.remove()
        q, k = head.query(kept["x"])[:, -1:], head.key(kept["x"])  # (n, 1, C), (n, T, C)
        looks = F.softmax(q @ k.transpose(1, 2) / 32**0.5, dim=-1).mean(dim=0)[0].flip(0).tolist()
    return model(x, y)[1].item(), looks


@pytest.mark.parametrize("name", MODELS)
def test_a_reader_trains_stops_and_starts_again(open_page, name):
    page = open_page(reduced_motion="no-preference")
    box = page.locator(f"[data-train='{name}']")
    train, again = box.locator("button").first, box.locator(".again")
    total = page.evaluate("(name) => trainers[name].steps", name)
    assert again.is_disabled()
    started = box.screenshot()
    runs = []
    for _ in range(2):
        assert train.inner_text() == "Train"
        train.focus()
        page.keyboard.press("Enter")
        assert train.inner_text() == "Stop"
        assert box.get_by_role("status").inner_text() == "It learns."
        page.wait_for_function("(name) => trainers[name].points.length > 1", arg=name)
        box.locator(".at-step").filter(has_text=re.compile(LEFT)).wait_for()
        page.keyboard.press("Enter")
        assert train.inner_text() == "Go on"
        said = box.get_by_role("status").inner_text()
        script = "(name) => [trainers[name].step, trainers[name].points]"
        step, points = page.evaluate(script, name)
        assert re.search(rf"^Stopped\. After step {points[-1][0]} the loss .*\d\.$", said)
        assert box.locator(".at-step").inner_text() == f"{step:,} of {total:,} steps"
        assert box.locator("polyline").count() == len(points[0]) - 1
        for drawn in box.locator("polyline").all():  # from the first loss on, which is the highest
            heights = [float(at.split(",")[1]) for at in drawn.get_attribute("points").split()]
            assert len(heights) == len(points)
            assert min(heights) == heights[0] >= 14
        assert all(last < first for first, last in zip(points[0][1:], points[1][1:], strict=True))
        for i, loss in enumerate(points[-1][1:]):
            assert f"{loss:.2f}" in said
            assert box.locator(".end").nth(i).text_content() == f"{loss:.2f}"
        runs.append(points[:2])
        assert page.evaluate("(name) => trainers[name].running", name) is False
        assert box.screenshot() != started
        again.click()
        assert train.evaluate("(e) => e === document.activeElement")
    assert runs[0] == runs[1]


def test_one_training_stops_the_other_and_says_how_long_it_takes(open_page):
    page = open_page(reduced_motion="no-preference")
    page.evaluate("trainers['01_bigram'].go(), trainers['02_self_attention'].go()")
    running = page.evaluate("Object.values(trainers).map(({ running }) => running)")
    assert running == [False, True]
    assert page.locator("[data-train='01_bigram'] button").first.inner_text() != "Stop"
    said = """([step, seconds]) => {
        const one = trainers["01_bigram"];
        Object.assign(one, { step: 500 + step, running: true });
        one.began = { step: 500, time: performance.now() - 1000 * seconds };
        return one.left();
    }"""
    assert page.evaluate(said, [500, 17]) == ", about 1 minute left"
    assert page.evaluate(said, [500, 40]) == ", about 3 minutes left"
    assert page.evaluate(said, [500, 5]) == ", about 20 seconds left"
    assert page.evaluate(said, [2400, 5]) == ", a few seconds left"
    assert page.evaluate(said, [1, 0.1]) == ""


@pytest.mark.parametrize("name", MODELS)
def test_the_loss_on_the_held_out_text_is_that_of_torch(open_page, name):
    """Of the weights as they are after 50 steps; and where step 2 looks, with and without."""
    script = """(name) => {
        const { begin, learning_rate } = trainers[name], models = begin();
        const evaluated = (step, losses, looks) =>
            (found = [step, losses, looks.map((look) => [...look])]);
        const run = { learning_rate, steps: 50, every: 50, seed: 2, evaluated };
        let found;
        for (const _ of training(models, lessonSplits(), run));
        const weights = (model) => parametersOf(model).map(([key, { data }]) => [key, [...data]]);
        return [...found, models.map((model) => Object.fromEntries(weights(model)))];
    }"""
    step, losses, looks, weights = open_page().evaluate(script, name)
    assert step == 50
    for loss, look, state in zip(losses, looks, weights, strict=True):
        expected, looked = held_out(name, state)
        assert loss == pytest.approx(expected, abs=1e-5)
        if looked:
            assert look == pytest.approx(looked, abs=1e-5)
    assert [len(state) for state in weights] == ([1] if name == "01_bigram" else [7, 6])


def test_the_page_learns_from_a_text_of_our_own():
    assert TEXT in SAMPLE.read_text(encoding="utf-8")
    assert json.loads(DATA)["chars"] == KEPT["chars"]
    assert 90_000 < len(TEXT) < 100_000
    assert len(PAGE.read_bytes()) < 900_000
    assert SAMPLE != TINY_SHAKESPEARE


@pytest.mark.parametrize("number", [6, 7])
@torch.no_grad()
def test_the_path_is_read_out_after_each_block(open_page, number):
    name, line, at = VIDEO[number - 1], "To be, or not", 6
    model, block_size = rounded(name)
    tokens = TOKENIZER.encode(line)
    kept = []
    for block in model.blocks:
        block.register_forward_hook(lambda block, x, out: kept.append((x[0], out)))
    model(torch.tensor([tokens[max(0, at + 1 - block_size) : at + 1]]))
    stages = [kept[0][0], *(out for _, out in kept)]
    page = open_page(hash=f"#line={line}&step={number}&at={at}")
    page.locator(f"#row-{number} .path").wait_for()
    rows = page.locator(f"#row-{number} .path tbody tr").all()
    assert len(rows) == len(stages) == ENTRIES[name]["config"]["n_layer"] + 1
    for row, x in zip(rows, stages, strict=True):
        probs = model.lm_head(model.norm(x))[0, -1].softmax(dim=0)
        letters = [text.replace("space", " ") for text in row.locator("code").all_text_contents()]
        shown = [TOKENIZER.chars[i].replace("\n", "↵") for i in probs.topk(3).indices]
        assert letters == shown
        shares = [
            float(re.search(r"([\d.]+) %", cell.inner_text())[1])
            for cell in row.locator("td").all()
        ]
        expected = [*probs.topk(3).values.tolist(), probs[tokens[at + 1]].item()]
        assert shares[:3] == pytest.approx([100 * p for p in expected[:3]], abs=0.51)
        assert shares[3] == pytest.approx(100 * expected[3], abs=0.051)
        marked = row.locator(".on code").all_text_contents()
        assert marked in ([], [line[at + 1].replace(" ", "space")])
    measured = CHOSEN["heads"][name]["path"]
    assert "mean of its seeds" in page.locator(f"#row-{number} .path .said").inner_text()
    losses = page.locator(f"#row-{number} .path tbody small").all_inner_texts()
    assert losses == [f"loss {loss:.2f}" for loss in measured]
    run = next(run for run in RESULTS[name]["runs"] if run["seed"] == export.SEED)
    assert measured[-1] == pytest.approx(run["val_loss"], abs=0.001)  # after the last: the model's
    # a block that is skipped has no row, and the others keep their numbers
    page = open_page(hash=f"#line={line}&step={number}&at={at}&off=b1")
    path = page.locator(f"#row-{number} .path")
    path.wait_for()
    assert path.locator("tbody th").all_inner_texts()[:3] == ["embeddings", "block 1", "block 3"]
    assert path.locator("tbody small").count() == 0


@pytest.mark.parametrize(
    "settings", [{}, {"color_scheme": "dark", "viewport": PHONE}], ids=["wide", "phone"]
)
def test_the_trained_page_is_accessible_and_fits(open_page, settings):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe").Axe()
    page = open_page(hash="#step=6", **settings)
    for name in MODELS:
        page.evaluate("(name) => trainers[name].go()", name)
        page.wait_for_function("(name) => trainers[name].points.length > 1", arg=name)
        page.evaluate("(name) => trainers[name].halt('Stopped')", name)
    found = axe.run(page)
    assert found.response["violations"] == [], found.generate_report()
    width = page.evaluate("document.documentElement.clientWidth")
    assert page.evaluate("document.documentElement.scrollWidth") == width
