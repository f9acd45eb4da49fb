"""The exercises: what they learn from, what counts in their losses, and what they keep unseen."""

import importlib
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from common import InputError

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = ROOT / "data" / "sample.txt"
ex2 = importlib.import_module("exercises.ex2_addition")
ex3 = importlib.import_module("exercises.ex3_finetune")
SMALL = ["--n-embd", "32", "--n-head", "2", "--n-layer", "1", "--batch-size", "8"]
SMALL += ["--eval-iters", "1", "--device", "cpu"]


# --- EX2, addition ---


def additions(*flags):
    """The config and the corpus of a command line, without a training."""
    config = ex2.parse_args([*SMALL, *flags])
    return config, ex2.Corpus(config, torch.device("cpu"))


def drawn(corpus, split, n):
    return set(map(tuple, corpus.draw(split, n).tolist()))


def exchanged(pairs):
    return {(b, a) for a, b in pairs}


@pytest.mark.parametrize(("flags", "line"), [([], "7530"), (["--plain"], "0357")])
def test_a_line_is_padded_and_its_sum_begins_with_the_last_digit(flags, line):
    config, corpus = additions(*flags)
    (tokens,) = corpus.lines(torch.tensor([[12, 345]]))
    assert corpus.tokenizer.decode(tokens) == "012+345=" + line
    assert len(tokens) == config.block_size + 1


def test_only_the_answer_is_in_the_loss():
    torch.manual_seed(0)
    config, corpus = additions("--digits", "2")
    model = ex2.LanguageModel(config, corpus.tokenizer.vocab_size)
    x, y = corpus.batch("train", 8, config.block_size)
    logits, loss = model(x, y)
    logits.retain_grad()
    loss.backward()
    counted = logits.grad.abs().amax(dim=-1) > 0  # (B, T)
    assert counted.tolist() == 8 * [5 * [False] + 3 * [True]]  # after 12+34 comes =, then the sum
    for row, target in zip(x, y, strict=True):
        a, b, start = re.split(r"[+=]", corpus.tokenizer.decode(row))
        answer = corpus.tokenizer.decode(target[5:])
        assert (int(answer[::-1]), start) == (int(a) + int(b), answer[:-1])
    wanted = F.cross_entropy(logits[:, 5:].flatten(0, 1), y[:, 5:].flatten())
    torch.testing.assert_close(loss, wanted)


def test_no_problem_is_both_in_training_and_in_the_test():
    _, corpus = additions("--digits", "1")
    train, val = drawn(corpus, "train", 5000), drawn(corpus, "val", 500)
    assert not train & val
    assert not exchanged(train) & val
    assert len(train | val) == 100
    assert len(val) == 10
    x, _ = corpus.batch("val", 500, 5)
    asked = {tuple(map(int, re.findall(r"\d", corpus.tokenizer.decode(row[:4])))) for row in x}
    assert asked == val


def test_extra_digits_stand_in_front_and_the_hold_out_stays():
    config, corpus = additions("--extra-digits", "2", "--digits", "1")
    train, val = (set(map(tuple, corpus.draw(s, 9000, 2).tolist())) for s in ("train", "val"))
    assert {n for pair in train | val for n in pair} == set(range(100, 1000))
    assert not (train | exchanged(train)) & val
    assert max(max(drawn(corpus, split, 500)) for split in ("train", "val")) <= (9, 9)
    (tokens,) = corpus.lines(torch.tensor([[987, 6]]))
    assert corpus.tokenizer.decode(tokens) == "987+006=3990"
    x, y = corpus.batch("train", 8, config.block_size)
    assert (y == -100).sum(dim=1).tolist() == 8 * [7]
    assert x.shape == (8, config.block_size)


@pytest.mark.parametrize("pair", [[1000, 1], [1, 1000], [-1, 1]])
def test_a_number_that_the_model_cannot_add_is_one_line(pair):
    config, corpus = additions()
    model = ex2.LanguageModel(config, corpus.tokenizer.vocab_size)
    with pytest.raises(InputError, match="adds numbers from 0 to 999$"):
        ex2.add(model, corpus, torch.tensor([[1, 1], pair]))


def test_an_answer_is_the_likeliest_characters_and_reads_as_a_number():
    torch.manual_seed(0)
    config, corpus = additions("--digits", "2")
    model = ex2.LanguageModel(config, corpus.tokenizer.vocab_size)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.5 * torch.randn_like(p)  # far from uniform
    pairs = corpus.draw("train", 20)
    said = ex2.add(model, corpus, pairs)
    for line, text in zip(corpus.lines(pairs), said, strict=True):
        tokens = line[:6]  # up to the =
        for _ in range(3):
            tokens = torch.cat((tokens, model(tokens[None])[0][0, -1:].argmax(dim=-1)))
        assert (corpus.tokenizer.decode(tokens[6:])[::-1].lstrip("0") or "0") == text
    assert len(set(said)) > 3


@pytest.mark.slow
def test_one_digit_is_learnt_and_tested_with_what_is_left(capsys):
    flags = ["--n-embd", "64", "--n-head", "4", "--n-layer", "2", "--batch-size", "64"]
    flags += ["--learning-rate", "3e-3", "--max-iters", "600", "--digits", "1"]
    model, corpus = ex2.main(ex2.parse_args([*SMALL, *flags]))
    train, unseen = drawn(corpus, "train", 5000), drawn(corpus, "val", 500)
    said = ex2.add(model, corpus, torch.tensor(sorted(train)))
    right = sum(text == str(a + b) for (a, b), text in zip(sorted(train), said, strict=True))
    assert right > 85  # of 90
    out = capsys.readouterr().out
    shown = re.findall(r"(\d)\+(\d)=", out)
    assert {(int(a), int(b)) for a, b in shown} <= unseen
    assert re.search(r"right: \d of 6 unseen problems", out)  # 4 of the 10 are others, exchanged


def test_right_and_wrong_answers_are_told_apart(capsys, monkeypatch):
    def add(model, corpus, pairs):
        assert len({frozenset(pair) for pair in pairs.tolist()}) == 20  # none twice
        return [*(str(a + b) for a, b in pairs.tolist()[:-3]), "5=", "x", "x"]

    monkeypatch.setattr(ex2, "add", add)
    ex2.main(ex2.parse_args([*SMALL, "--max-iters", "0", "--test-size", "20"]))
    right, wrong = capsys.readouterr().out.splitlines()[-2:]
    assert right.startswith("right: 17 of 20 unseen problems")
    assert all(int(a) + int(b) == int(c) for a, b, c in re.findall(r"(\d+)\+(\d+)=(\d+)", right))
    assert re.fullmatch(r"wrong: 3, \d+\+\d+=5=, \d+\+\d+=x, \d+\+\d+=x", wrong)


# --- EX3, pretraining and fine-tuning ---


def finetune(*flags):
    small = ["--block-size", "8", "--max-new-tokens", "10"]
    return ex3.main(ex3.parse_args([*SMALL, *small, *map(str, flags)]))


@pytest.fixture
def large(tmp_path):
    """A text that is not the sample, with characters that the sample lacks, one in val alone."""
    path = tmp_path / "large.txt"
    path.write_text(200 * "caf\u00e9 noir\n" + "c\u0153ur\n", encoding="utf-8")
    return path


def test_both_texts_share_one_vocabulary(large, monkeypatch):
    chars, train = [], ex3.train

    def watch(model, corpus, config):
        text = corpus.texts["train"]
        assert corpus.tokenizer.decode(corpus.splits["train"]) == text
        chars.append(corpus.tokenizer.chars)
        train(model, corpus, config)

    monkeypatch.setattr(ex3, "train", watch)
    model, _ = finetune("--pretrain-data", large, "--max-iters", 1, "--finetune-iters", 1)
    both = large.read_text(encoding="utf-8") + SAMPLE.read_text(encoding="utf-8")
    assert chars == 2 * [sorted(set(both))]
    assert model.lm_head.out_features == len(set(both))


def test_fine_tuning_goes_on_with_the_pretrained_weights(large):
    """With a learning rate of 0 it leaves them as they are."""
    flags = ["--pretrain-data", large, "--max-iters", 20]
    pretrained, _ = finetune(*flags, "--finetune-iters", 0)
    still, _ = finetune(*flags, "--finetune-iters", 3, "--finetune-rate", 0)
    for (name, one), other in zip(
        pretrained.state_dict().items(), still.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=0, msg=name)
    fresh, _ = finetune("--pretrain-data", large, "--max-iters", 0, "--finetune-iters", 0)
    assert not torch.equal(pretrained.lm_head.weight, fresh.lm_head.weight)


def test_the_large_text_comes_first_and_the_small_one_at_a_lower_rate(large, monkeypatch):
    stages = []

    def interrupted(model, *stage):
        stages.append(stage)
        raise KeyboardInterrupt  # ends this training alone

    monkeypatch.setattr(ex3, "train", interrupted)
    _, corpus = finetune("--pretrain-data", large)
    (first, pretraining), (second, finetuning) = stages
    texts = [large.read_text(encoding="utf-8"), SAMPLE.read_text(encoding="utf-8")]
    assert ["".join(one.texts.values()) for one in (first, second)] == texts
    assert second is corpus
    assert (pretraining.learning_rate, pretraining.max_iters) == (1e-3, 2000)
    assert (finetuning.learning_rate, finetuning.max_iters) == (1e-4, 1000)


def test_a_small_text_that_is_too_short_ends_the_run_before_the_pretraining(
    large, tmp_path, capsys
):
    (tmp_path / "short.txt").write_text("to be\n" * 10)
    with pytest.raises(InputError, match="too short for block_size 8"):
        finetune("--pretrain-data", large, "--data", tmp_path / "short.txt", "--max-iters", 1)
    assert "pretraining" not in capsys.readouterr().out
