"""The exercises: they learn what they say, from what they say, and test on what was never seen."""

import dataclasses
import importlib
import json
import math
import random
import re
import shutil

import ex2_addition as ex2
import ex3_finetune as ex3
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT, SAMPLE, run, small_flags

from common.data import Corpus, load_corpus

CPU = torch.device("cpu")
LINE = re.compile(r"step (\d+): train loss ([\d.]+), val loss ([\d.]+)")


# --- EX2, addition ---

ONE_DIGIT = {"digits": 1, "n_embd": 64, "n_head": 4, "n_layer": 2, "batch_size": 64}
ONE_DIGIT |= {"learning_rate": 3e-3, "max_iters": 500, "eval_interval": 250, "eval_iters": 1}


def problems_of(x, y, corpus):
    """The two numbers and the sum of each line of a batch."""
    lines = [corpus.decode([*row, last]) for row, last in zip(x, y[:, -1], strict=True)]
    for line in lines:
        a, b, answer = re.split(r"[+=]", line)
        yield int(a), int(b), corpus.read(answer)


@pytest.mark.parametrize("plain", [False, True])
def test_one_digit_is_learnt_to_the_last_problem(plain, capsys):
    torch.manual_seed(0)
    config = ex2.Config(**ONE_DIGIT, plain=plain)
    corpus = ex2.Corpus(config)
    model = ex2.LanguageModel(config, corpus.vocab_size)
    every = torch.cartesian_prod(torch.arange(10), torch.arange(10))
    trained = every[~corpus.held_out(every)]
    assert len(trained) == 90
    ex2.train(model, corpus, config, CPU)
    said = ex2.answers(model, corpus, trained, CPU)
    assert said == [str(a + b) for a, b in trained.tolist()]


def test_only_the_answer_is_in_the_loss():
    config = ex2.Config(digits=2, n_embd=16, n_head=2, n_layer=1)
    corpus = ex2.Corpus(config)
    model = ex2.LanguageModel(config, corpus.vocab_size)
    x, y = corpus.batch("train", 8, config.block_size)
    logits, loss = model(x, y)
    logits.retain_grad()
    loss.backward()
    moved = logits.grad.abs().amax(dim=-1) > 0  # (B, T)
    assert moved.tolist() == 8 * [5 * [False] + 3 * [True]]  # after 12+34 comes =, then the sum
    line_ends = [
        corpus.encode(corpus.answer(int(a) + int(b))) for a, b, _ in problems_of(x, y, corpus)
    ]
    wanted = F.cross_entropy(logits[:, 5:].flatten(0, 1), torch.tensor(line_ends).flatten())
    torch.testing.assert_close(loss, wanted)


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("digits", range(1, 10))
def test_the_decoder_inverts_the_encoder(digits, plain):
    corpus = ex2.Corpus(ex2.Config(digits=digits, plain=plain, test_size=10))
    most = 10**digits - 1
    numbers = random.Random(0)
    pairs = [(0, 0), (most, most), (most, 0), (0, 1), (1, most)]
    pairs += [(numbers.randint(0, most), numbers.randint(0, most)) for _ in range(50)]
    for a, b in pairs:
        line = corpus.question(a, b) + corpus.answer(a + b)
        assert corpus.decode(corpus.encode(line)) == line
        assert len(line) == 3 * digits + 3
        first, second, answer = re.split(r"[+=]", line)
        assert (int(first), int(second), corpus.read(answer)) == (a, b, str(a + b))
        assert int(answer if plain else answer[::-1]) == a + b


def test_the_sum_begins_with_its_last_digit():
    corpus = ex2.Corpus(ex2.Config())
    assert corpus.question(12, 345) + corpus.answer(357) == "012+345=7530"
    plain = ex2.Corpus(ex2.Config(plain=True))
    assert plain.question(12, 345) + plain.answer(357) == "012+345=0357"


def test_training_has_all_problems_but_those_of_the_test():
    corpus = ex2.Corpus(ex2.Config(digits=1))
    tested = {tuple(pair) for pair in corpus.test.tolist()}
    x, y = corpus.batch("train", 5000, 5)
    seen = {(a, b) for a, b, _ in problems_of(x, y, corpus)}
    assert len(tested) == 10
    assert len(seen) == 90
    assert not seen & tested
    x, y = corpus.batch("val", 1000, 5)
    assert {(a, b) for a, b, _ in problems_of(x, y, corpus)} == tested
    for a, b, answer in problems_of(x, y, corpus):
        assert answer == str(a + b)


def test_three_digits_are_tested_with_1000_problems_never_trained_on():
    corpus = ex2.Corpus(ex2.Config())
    tested = {tuple(pair) for pair in corpus.test.tolist()}
    assert len(tested) == 1000
    lengths = [sum(len(str(max(pair))) == n for pair in tested) for n in (1, 2, 3)]
    assert lengths[0] == 10
    assert min(lengths[1:]) > 100
    x, y = corpus.batch("train", 50_000, 11)
    seen = {(a, b) for a, b, _ in problems_of(x, y, corpus)}
    assert not seen & tested
    assert len({pair for pair in seen if max(pair) < 10}) == 90


def test_answers_are_the_likeliest_characters_one_by_one():
    torch.manual_seed(0)
    config = ex2.Config(digits=2, n_embd=16, n_head=2, n_layer=1)
    corpus = ex2.Corpus(config)
    model = ex2.LanguageModel(config, corpus.vocab_size).eval()
    with torch.no_grad():
        for p in model.parameters():
            p += 0.5 * torch.randn_like(p)  # far from uniform
    problems = corpus.draw(20)
    said = ex2.answers(model, corpus, problems, CPU)
    for (a, b), text in zip(problems.tolist(), said, strict=True):
        tokens = corpus.encode(corpus.question(a, b))
        for _ in range(3):
            tokens.append(int(model(torch.tensor([tokens]))[0][0, -1].argmax()))
        assert corpus.read(corpus.decode(tokens[-3:])) == text
    assert len(set(said)) > 3


def test_wrong_answers_are_shown_and_counted(capsys, monkeypatch):
    corpus = ex2.Corpus(ex2.Config(digits=2))
    sums = [str(a + b) for a, b in corpus.test.tolist()]
    sums[3:15] = 12 * ["x"]
    monkeypatch.setattr(ex2, "answers", lambda *_: sums)
    ex2.test(None, corpus, CPU)
    first, *lengths, _ = capsys.readouterr().out.split("\n")
    assert first == "right: 988 of 1,000 unseen problems, 98.8 %"
    found = [re.fullmatch(r"(\d) digits?: (\d+) of (\d+)", line) for line in lengths[:2]]
    assert [int(m[1]) for m in found] == [1, 2]
    assert sum(int(m[2]) for m in found) == 988
    assert sum(int(m[3]) for m in found) == 1000
    a, b = corpus.test[3].tolist()
    assert lengths[2] == f"wrong: {a}+{b}=x, not {a + b}"
    assert len(lengths) == 2 + 10


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A copy of the exercise that has been run with one digit, with what it printed."""
    folder = tmp_path_factory.mktemp("a checkout")
    shutil.copytree(ROOT / "common", folder / "common")
    (folder / "exercises").mkdir()
    script = folder / "exercises" / "ex2_addition.py"
    shutil.copy(ROOT / "exercises" / "ex2_addition.py", script)
    done = run(script, *ONE_DIGIT_FLAGS)
    assert (done.returncode, done.stderr) == (0, "")
    return script, done.stdout


ONE_DIGIT_FLAGS = [w for k, v in ONE_DIGIT.items() for w in ("--" + k.replace("_", "-"), str(v))]
SHAPE = ONE_DIGIT_FLAGS[:8]  # digits, and what the model is made of
HEADS = ONE_DIGIT["n_head"]
KEPT = f"ex2_addition_1_digits_{HEADS}_heads.pt"


def test_a_trained_model_answers(trained):
    script, printed = trained
    assert [int(step) for step, *_ in LINE.findall(printed)] == [0, 250, 500]
    assert re.search(r"^right: \d+ of 10 unseen problems", printed, flags=re.M)
    wrong = re.findall(r"^wrong: (\d)\+(\d)=", printed, flags=re.M)
    config = ex2.Config(**ONE_DIGIT)
    torch.manual_seed(config.seed)
    tested = set(map(tuple, ex2.Corpus(config).test.tolist()))
    assert {(int(a), int(b)) for a, b in wrong} <= tested
    a, b = next((a, b) for a in range(9, 0, -1) for b in range(9, 0, -1) if (a, b) not in tested)
    done = run(script, *SHAPE, "--ask", f" {a} + {b}")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{a}+{b}={a + b}\n", "")
    for a, b in wrong:
        done = run(script, *SHAPE, "--ask", f"{a}+{b}")
        assert done.stdout.endswith(f", which is wrong: {int(a) + int(b)}\n")
    assert [p.name for p in (script.parent.parent / "runs").iterdir()] == [KEPT]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--ask", "1+2"], "3_digits_3_heads.pt: run the same command without --ask first"),
        ([*SHAPE, "--plain", "--ask", "1+2"], f"{KEPT[:-3]}_plain.pt: run the same"),
        ([*SHAPE, "--n-head", "1", "--ask", "1+2"], "1_digits_1_heads.pt: run the same"),
        (["--digits", "1", "--n-head", f"{HEADS}", "--ask", "1+2"], "has other settings"),
        (["--ask", "1-2"], "ask '1-2' must be two numbers, such as 123+456"),
        (["--ask", ""], "ask '' must be two numbers, such as 123+456"),
        (["--ask", "1000+2"], "ask 1000+2 has more digits than --digits 3"),
        (["--digits", "10"], "digits 10 must be at most 9"),
        (["--digits", "0"], "digits must not be 0"),
        (["--device", "abacus"], "abacus"),
    ],
)
def test_what_cannot_be_asked_is_said_in_one_line(trained, flags, words, capsys):
    models = ["--models", str(trained[0].parent.parent / "runs")]
    with pytest.raises(SystemExit) as exit:
        ex2.main(ex2.parse_args(models + flags))
    captured = capsys.readouterr()
    line = exit.value.code if isinstance(exit.value.code, str) else captured.err
    assert exit.value.code != 0
    assert words in line
    assert "\n" not in line.rstrip("\n")
    assert captured.out == ""


def test_a_model_is_kept_whole_or_not_at_all(tmp_path, monkeypatch):
    config = ex2.Config(digits=1, n_embd=16, n_head=2, n_layer=1)
    model, path = ex2.LanguageModel(config, 12), tmp_path / "model.pt"
    ex2.save(model, path)
    before = path.read_bytes()

    def half(part, content):
        part.open("wb").write(content[: len(content) // 2])
        raise OSError("no space left")

    monkeypatch.setattr(ex2.Path, "write_bytes", half)
    other = ex2.LanguageModel(config, 12)
    with pytest.raises(OSError, match="no space left"):
        ex2.save(other, path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["model.pt"]
    ex2.load(other, path)
    for name, weight in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], weight)


# --- EX3, pretraining and fine-tuning ---

TINY = {"max_iters": 6, "pretrain_iters": 4, "finetune_iters": 5, "eval_interval": 3}
TINY |= {"n_embd": 16, "n_head": 2, "n_layer": 1, "max_new_tokens": 10}


@pytest.fixture
def large(tmp_path):
    """A text of other words than the sample, with characters that it lacks."""
    words = random.Random(0)
    text = " ".join("".join(words.choices("abcdefgh\u00e9 \n", k=5)) for _ in range(2000))
    path = tmp_path / "large.txt"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def go(large, tmp_path, capsys):
    """What a run prints, in this process."""

    def run_main(*more, **settings):
        settings = TINY | {"pretrain_data": large} | settings
        ex3.main(ex3.parse_args([*small_flags(ex3, tmp_path, **settings), *more]))
        return capsys.readouterr().out

    return run_main


WILD = {"learning_rate": 0.5, "finetune_rate": 0.5}  # the last loss is not the lowest


def table(printed):
    return printed.split("--- val loss on")[1].split("\n")[1:3]


def test_fine_tuning_starts_from_the_weights_that_pretraining_ended_with(go, monkeypatch):
    states, real = [], ex3.train

    def train(model, corpus, config, *rest):
        def state():
            return {name: value.clone() for name, value in model.state_dict().items()}

        before = state()
        losses = real(model, corpus, config, *rest)
        states.append((before, state(), corpus.splits["train"], config.learning_rate))
        return losses

    monkeypatch.setattr(ex3, "train", train)
    go(learning_rate=0.01, finetune_rate=0.001)
    (start, alone, small, _), (start2, pretrained, large, _), (start3, tuned, small2, rate) = states

    def same(a, b):
        return all(torch.equal(a[name], b[name]) for name in a)

    assert same(start, start2)
    assert same(pretrained, start3)
    for a, b in ((start, alone), (start, pretrained), (pretrained, tuned), (alone, tuned)):
        assert not same(a, b)
    assert torch.equal(small, small2)
    assert len(large) != len(small)
    assert rate == 0.001


def test_the_table_has_the_losses_of_the_runs(go):
    printed = go(**WILD)
    alone, pretraining, tuning = (part for part in re.split(r"^--- .*$", printed, flags=re.M)[1:4])
    assert [int(step) for step, *_ in LINE.findall(alone)] == [0, 3, 6]
    assert [int(step) for step, *_ in LINE.findall(pretraining)] == [0, 3, 4]
    assert [int(step) for step, *_ in LINE.findall(tuning)] == [0, 1, 2, 3, 4, 5]
    for row, part in zip(table(printed), (alone, tuning), strict=True):
        losses = {int(step): val for step, _, val in LINE.findall(part)}
        said = re.search(r"([\d.]+) after (\d+) steps, ([\d.]+) after (\d+)$", row)
        assert (said[1], int(said[2])) == (losses[max(losses)], max(losses))
        assert said[3] == min(losses.values(), key=float) == losses[int(said[4])]
    assert said[1] != said[3]
    # the small text's validation split in all three: where fine-tuning starts, pretraining ended
    assert LINE.findall(pretraining)[-1][2] == LINE.findall(tuning)[0][2]


@pytest.mark.parametrize(
    "left", [["_alone"], ["_alone", "_pretrained"], ["_alone", "_pretrained", ""]]
)
def test_a_stopped_run_goes_on_to_the_same_numbers(go, left, tmp_path):
    whole = go(**WILD)
    files = {suffix: tmp_path / f"model{suffix}.pt" for suffix in ("_alone", "_pretrained", "")}
    for suffix, path in files.items():
        if suffix not in left:
            path.unlink()
    resumed = go("--resume", **WILD)
    assert table(resumed) == table(whole)
    assert resumed.split("\n")[-2] == whole.split("\n")[-2]  # the sample
    if left == ["_alone"]:
        assert resumed.split("--- pretraining")[1] == whole.split("--- pretraining")[1]


def test_another_pretraining_is_not_mixed_with_an_old_fine_tuning(go):
    go()
    with pytest.raises(SystemExit, match="cannot be resumed, it has pretrain_iters 4, not 8"):
        go("--resume", pretrain_iters=8)


def test_a_start_from_another_seed_is_not_mixed_with_it(go):
    go(seed=7)
    with pytest.raises(SystemExit, match="_alone.pt cannot be resumed, it has seed 7, not 1337"):
        go("--resume")


def test_another_large_text_is_not_mixed_with_an_old_fine_tuning(go, large, tmp_path):
    go()
    large.write_text(large.read_text(encoding="utf-8")[::-1], encoding="utf-8")
    (tmp_path / "model_pretrained.pt").unlink()
    with pytest.raises(SystemExit, match=r"it has pretrain_data large.txt \(\w+\), not large.txt"):
        go("--resume")


def test_what_is_wrong_with_the_large_text_names_its_flag(go, tmp_path):
    with pytest.raises(SystemExit, match="--pretrain-data"):
        go(pretrain_data=tmp_path / "nowhere.txt")


def test_the_fine_tuned_model_can_be_sampled_from(go, tmp_path):
    go()
    flags = ["--sample", "--checkpoint", tmp_path / "model.pt", "--max-new-tokens", 15]
    ex3.main(ex3.parse_args(list(map(str, flags))))


def test_val_loss_is_that_of_the_whole_split(corpus):
    torch.manual_seed(0)
    config = ex3.Config(n_embd=16, n_head=2, n_layer=1, block_size=32, eval_iters=1, dropout=0.0)
    model = ex3.LanguageModel(config, corpus.vocab_size)
    tokens = corpus.splits["val"].long()
    n = (len(tokens) - 1) // 32 * 32
    x, y = tokens[:n].view(-1, 32), tokens[1 : n + 1].view(-1, 32)
    found = ex3.estimate_loss(model, corpus, config, CPU)["val"]
    assert model.training
    assert found == pytest.approx(model(x, y)[1].item(), abs=1e-5)
    assert found == ex3.estimate_loss(model, corpus, config, CPU)["val"]  # nothing is drawn


def test_other_characters_are_dropped_and_counted(large, corpus, capsys):
    config = ex3.Config(pretrain_data=large, data=SAMPLE, block_size=8)
    found = ex3.load_large(config, corpus)
    text = large.read_text(encoding="utf-8")
    assert corpus.decode(found.splits["train"].tolist()) == text.replace("\u00e9", "")
    assert torch.equal(found.splits["val"], corpus.splits["val"])
    assert found.chars == corpus.chars
    said = f"dropped {text.count(chr(0xE9)):,} of {len(text):,} characters"
    assert capsys.readouterr().out == f"{large}: {said}; {SAMPLE} lacks '\u00e9'\n"


def val_text(corpus):
    return corpus.decode(corpus.splits["val"].tolist())


def test_a_planted_passage_of_the_validation_split_is_refused(go, large, corpus):
    """Also in another edition: in capitals, without punctuation, broken into other lines."""
    passage = re.sub(r"\W+", " \n", val_text(corpus)[5000:5090]).upper()
    text = large.read_text(encoding="utf-8")
    large.write_text(text[:3000] + passage + text[3000:], encoding="utf-8")
    with pytest.raises(SystemExit, match="has passages of the validation split") as exit:
        go()
    assert "\n" not in exit.value.code
    found = re.search(r"such as '(.*)': take", exit.value.code)[1]
    assert len(found) == 60
    assert found in re.sub(r"\W+", " ", val_text(corpus).lower())


def test_the_text_itself_and_what_was_trained_on_is_told_apart(corpus):
    """The training split of the small text may be in the large one, its validation split not."""
    tokens = torch.cat(list(corpus.splits.values()))
    whole = Corpus(corpus.chars, tokens)
    whole.splits = {"train": tokens, "val": corpus.splits["val"]}
    assert ex3.shared_passage(whole) is not None
    assert ex3.shared_passage(corpus) is None


def test_a_coincidence_is_no_passage(corpus):
    """Half a passage, a line of dashes, and the same words in another order."""
    val = val_text(corpus)
    start = val.index(" ", 5000)
    half = val[start : start + 55]
    words = val[start : start + 400].split()
    other = " ".join(reversed(words))
    train = f"{half}\n{'-' * 200}\n{' ' * 200}\n{other}"
    own = Corpus(corpus.chars, torch.tensor(corpus.encode(train)))
    dashes = corpus.encode("-" * 200)
    splits = {
        "train": torch.tensor(corpus.encode(train)),
        "val": torch.tensor(corpus.encode(val) + dashes),
    }
    own.splits = splits
    assert ex3.shared_passage(own) is None
    own.splits = splits | {"train": torch.tensor(corpus.encode(train + val[start : start + 90]))}
    assert ex3.shared_passage(own) is not None


def test_a_text_of_other_letters_is_too_short(go, large):
    large.write_text("\u65e5\u672c" * 1000, encoding="utf-8")
    with pytest.raises(SystemExit, match="has 0 characters left, too few"):
        go()


def test_the_default_texts_need_no_network(tmp_path):
    """In a checkout without Tiny Shakespeare, behind a proxy that refuses."""
    for folder in ("common", "exercises"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    (tmp_path / "data").mkdir()
    shutil.copy(SAMPLE, tmp_path / "data")
    flags = [w for k, v in TINY.items() for w in ("--" + k.replace("_", "-"), v)]
    flags += ["--eval-iters", 1, "--eval-batch-size", 8, "--device", "cpu"]
    nowhere = {name: "http://127.0.0.1:9" for name in ("https_proxy", "HTTPS_PROXY")}
    done = run(tmp_path / "exercises" / "ex3_finetune.py", *flags, **nowhere)
    assert done.returncode == 0, done.stderr
    assert "fine-tuned" in done.stdout
    manual = load_corpus(tmp_path / "runs" / "python_manual.txt")
    assert "python" in manual.decode(manual.splits["train"].tolist()).lower()


def test_help_names_every_setting(capsys):
    for step in (ex2, ex3):
        with pytest.raises(SystemExit):
            step.parse_args(["--help"])
        text = " ".join(capsys.readouterr().out.split())
        for field in dataclasses.fields(step.Config):
            assert f"--{field.name.replace('_', '-')} " in text


# --- What was measured ---

MEASURED = json.loads((ROOT / "docs" / "exercises.json").read_text(encoding="utf-8"))
README = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())


@pytest.mark.slow
def test_what_is_said_of_the_addition_was_measured():
    addition = MEASURED["addition"]
    for way in ("reversed", "plain"):
        assert [one["seed"] for one in addition[way]["runs"]] == [1337, 1338, 1339]
    said = re.search(r"Expect ([\d,]+) of ([\d,]+) unseen problems in about (\d+)", ex2.__doc__)
    assert said[1] == f"{addition['reversed']['lowest']:,}"
    assert said[2] == f"{addition['reversed']['tested']:,}"
    assert abs(int(said[3]) - addition["reversed"]["seconds"]) < 5
    assert addition["reversed"]["slowest"] < 180
    long, tested = addition["longer"]["longer"]
    assert f"adds {long} of {tested:,} pairs of four digits" in " ".join(ex2.__doc__.split())
    assert addition["plain"]["lowest"] < addition["reversed"]["lowest"]


@pytest.fixture
def measure():
    """docs/measure_exercises.py, imported."""
    for package in ("matplotlib", "numpy"):
        pytest.importorskip(package, reason="needs docs/requirements.txt")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "docs")
        yield importlib.import_module("measure_exercises")


@pytest.mark.slow
def test_measuring_reads_what_the_exercises_print(measure, large, monkeypatch):
    flags = [w for k, v in ONE_DIGIT.items() for w in ("--" + k.replace("_", "-"), v)]
    found = measure.addition(*flags, "--max-iters", 2)
    assert found["tested"] == 10
    assert (found["steps"], len(found["runs"])) == (2, 3)
    assert all(one["right"] == one["lengths"][0][1] for one in found["runs"])
    assert all(len(one["wrong"]) == 10 - one["right"] for one in found["runs"])

    flags = [w for k, v in TINY.items() for w in ("--" + k.replace("_", "-"), v)]
    flags += ["--eval-iters", 1, "--eval-batch-size", 8, "--data", SAMPLE, "--pretrain-data", large]
    monkeypatch.setitem(measure.ex3_finetune.LAPTOP, "pretrain_iters", 4)
    monkeypatch.setitem(measure.ex3_finetune.LAPTOP, "finetune_iters", 5)
    found = measure.finetuning((1, 2), *flags)
    assert [one["seed"] for one in found["runs"]] == [1, 2]
    assert [point[0] for point in found["runs"][0]["tuning"]] == [0, 1, 2, 3, 4, 5]
    assert [point[0] for point in found["runs"][0]["alone"]] == [0, 3, 6]
    assert [point[0] for point in found["runs"][0]["longer"]] == [0, 3, 6, 9]
    text = large.read_text(encoding="utf-8")
    assert (found["dropped"], found["characters"]) == (text.count("\u00e9"), len(text))


@pytest.mark.slow
def test_the_summary_of_fine_tuning(measure):
    first = {"alone": [[0, 9, 4.0], [5, 1, 2.0], [9, 1, 2.5]]}
    first["tuning"] = [[0, 1, 3.0], [2, 1, 1.9], [4, 1, 1.8]]
    first["longer"] = [*first["alone"], [12, 1, 1.7]]
    second = {"alone": [[0, 9, 4.0], [5, 1, 2.2], [9, 1, 2.1]]}
    second["tuning"] = [[0, 1, 3.2], [2, 1, 2.2], [4, 1, 2.3]]
    second["longer"] = [*second["alone"], [12, 1, 2.2]]
    found = measure.summary([first, second])
    assert found["alone"] == {"last": 2.3, "lowest": 2.05, "at": [5, 9], "each": [2.0, 2.1]}
    assert found["tuning"] == {"last": 2.05, "lowest": 2.0, "at": [4, 2], "each": [1.8, 2.2]}
    assert (found["gain"], found["gains"], found["pretrained"]) == (0.05, [-0.1, 0.2], 3.1)
    assert found["below_after"] == [2, None]
    assert found["longer"]["each"] == [1.7, 2.1]
    assert (found["gain_longer"], found["gains_longer"]) == (-0.1, [-0.1, -0.1])


@pytest.mark.slow
def test_what_a_loss_means_is_reckoned_right():
    said = re.search(
        r"A loss of ([\d.]+) nats is ([\d.]+) bits and a perplexity of (\d+\.\d+)", README
    )
    nats = float(said[1])
    assert said[2] == f"{nats / math.log(2):.2f}"
    assert said[3] == f"{math.exp(nats):.1f}"
    assert f"ln 65 = {math.log(65):.2f}" in README
