"""Learning while reading: what is predicted before it is learnt, and how far the model moves."""

import copy
import importlib
import re

import pytest
import torch
import torch.nn.functional as F
from conftest import CPU, small_config, small_flags

from common.data import load_corpus
from common.download import SAMPLE

reading = importlib.import_module("beyond.reading")
T = 8


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = reading.LanguageModel(small_config(reading, n_member=1), 20)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return model


def losses_of(model, text):
    """Nats of each token of a text but the first, from the window that it stands in."""
    found = []
    for i in range(1, len(text)):
        start = (i - 1) // T * T
        with torch.no_grad():
            logits, _ = model(text[None, start:i])
        found.append(F.cross_entropy(logits[0, -1], text[i]))
    return torch.stack(found)


def test_without_an_optimiser_it_is_the_loss_of_each_token_and_the_model_stays(model):
    text = torch.randint(20, (3 * T + 4,))
    before = copy.deepcopy(model)
    losses = reading.read(model, reading.windows(text, T))
    torch.testing.assert_close(losses, losses_of(before, text))
    assert all(map(torch.equal, model.parameters(), before.parameters()))


def test_each_piece_is_predicted_by_a_model_that_has_learnt_from_those_before_it_alone(model):
    text = torch.randint(20, (3 * T + 4,))
    student = copy.deepcopy(model)
    rate, expected = 0.5, []
    for start in range(0, len(text) - 1, T):
        piece = text[start : start + T + 1]
        expected.append(losses_of(student, piece))
        logits, _ = student(piece[None, :-1])
        loss = -logits[0].log_softmax(dim=-1)[range(len(piece) - 1), piece[1:]].mean()
        gradients = torch.autograd.grad(loss, list(student.parameters()))
        with torch.no_grad():
            for p, gradient in zip(student.parameters(), gradients, strict=True):
                p -= rate * gradient
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    found = reading.read(model, reading.windows(text, T), optimizer)
    torch.testing.assert_close(found, torch.cat(expected))
    for p, q in zip(model.parameters(), student.parameters(), strict=True):
        torch.testing.assert_close(p, q)
    # What comes later changes nothing in the losses before it.
    other = torch.cat((text[: 2 * T + 1], torch.randint(20, (T + 3,))))
    again = reading.read(copy.deepcopy(student), reading.windows(text, T))
    assert torch.equal(again[: 2 * T], reading.read(student, reading.windows(other, T))[: 2 * T])


def test_a_text_that_repeats_itself_is_read_better_and_better_and_says_so(capsys):
    flags = small_flags(reading, max_iters=1, vocab_size=70, max_new_tokens=0)
    config = reading.parse_args([*flags, "--reading-rate", "0.003"])
    corpus = load_corpus(SAMPLE, CPU, seed=1)
    corpus.texts["val"] = "To be, or not to be, that is. " * 60
    corpus.splits["val"] = torch.tensor(corpus.tokenizer.encode(corpus.texts["val"]))
    torch.manual_seed(0)
    model = reading.LanguageModel(config, corpus.tokenizer.vocab_size)
    untouched = copy.deepcopy(model)
    reading.read_twice(model, corpus, config)
    printed = capsys.readouterr().out
    without, learning = map(float, re.findall(r"^val loss ([\d.]+)", printed, re.MULTILINE))
    exact = losses_of(untouched, corpus.splits["val"]).mean().item()
    assert without == pytest.approx(exact, abs=1e-3)
    tenths = re.findall(r"tenth (\d+): ([\d.]+) without learning, ([\d.]+) learning", printed)
    assert [int(i) for i, *_ in tenths] == list(range(1, 11))
    assert learning < without - 0.5
    assert float(tenths[-1][2]) < float(tenths[0][2]) - 1
    assert float(tenths[-1][1]) > without - 0.1


def test_a_run_reads_the_validation_split_after_its_sample(capsys):
    # Long windows, so that the split has few.
    flags = small_flags(reading, max_iters=1, vocab_size=70, prompt="MARGERY", block_size=64)
    model, corpus = reading.main(reading.parse_args(flags))
    printed = capsys.readouterr().out.split("MARGERY")[1]
    losses = re.findall(r"^val loss ([\d.]+)", printed, re.MULTILINE)
    pieces = reading.windows(corpus.splits["val"], 64)
    # The model that is returned has learnt from the split, the first loss is from before.
    per_char = len(corpus.splits["val"]) / len(corpus.texts["val"])
    assert reading.read(model, pieces).mean() * per_char < float(losses[0])
