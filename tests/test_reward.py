"""Practice with a checker: the gradient, the rewards, and what the model may see."""

import importlib
import re
import sys

import pytest
import torch
from conftest import ROOT
from torch import nn

sys.path.insert(0, str(ROOT / "measure"))
measure = importlib.import_module("reward")
reward = importlib.import_module("beyond.reward")
SMALL = ["--n-embd", "32", "--n-head", "2", "--n-layer", "1", "--batch-size", "32"]
SMALL += ["--eval-iters", "1", "--device", "cpu"]


def small(*flags):
    """The config, the corpus and an untrained model of a command line."""
    config = reward.parse_args([*SMALL, *map(str, flags)])
    torch.manual_seed(config.seed)
    corpus = reward.Corpus(config, torch.device("cpu"))
    model = reward.LanguageModel(config, corpus.tokenizer.vocab_size)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.2 * torch.randn_like(p)  # far from uniform
    return config, corpus, model


def gradients(model, loss):
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])


def test_the_loss_has_the_gradient_of_the_expected_reward():
    """All 144 answers to a problem, each with its probability, in place of a sample."""
    _, corpus, model = small("--digits", 1)
    model.double()
    prompt = corpus.lines(torch.tensor([[3, 9]]))[:, :4]  # 3+9=
    V = corpus.tokenizer.vocab_size
    answers = torch.cartesian_prod(torch.arange(V), torch.arange(V))  # (V*V, 2)
    rewards = torch.randn(V * V, dtype=torch.double)

    first = model(prompt)[0][0, -1].softmax(dim=-1)  # (V,)
    both = torch.cat((prompt.expand(V, -1), torch.arange(V)[:, None]), dim=1)
    second = model(both)[0][:, -1].softmax(dim=-1)  # (V, V)
    probs = (first[:, None] * second).flatten()
    assert probs.sum().item() == pytest.approx(1)
    wanted = -gradients(model, (probs * rewards).sum())

    # A constant that all rewards are compared with changes nothing in the expectation.
    for constant in (0.0, 5.0):
        weighted = probs.detach() * (rewards - constant)
        loss = reward.policy_loss(model, prompt.expand(V * V, -1), answers, weighted)
        torch.testing.assert_close(gradients(model, loss), wanted)


class Guesser(nn.Module):
    """Draws right answers, wrong ones, and wrong ones whose last digit is right."""

    def __init__(self, corpus):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.corpus = corpus
        self.drawn = []

    def generate(self, idx, max_new_tokens, draw=False):
        lines = []
        for row in idx:
            a, b = map(int, re.findall(r"\d+", self.corpus.tokenizer.decode(row)))
            off = [0, 1, 10][torch.randint(3, ()).item()] if draw else 0
            lines.append(self.corpus.tokenizer.encode(f"{a + b + off:03}"[::-1]))
        answers = torch.tensor(lines)  # (n, max_new_tokens)
        if draw:
            self.drawn.append((idx, answers))
        yield from answers.split(1, dim=1)


@pytest.mark.parametrize("flags", [[], ["--imitate"], ["--divide"], ["--lenient"]])
def test_an_answer_is_compared_with_the_others_to_its_problem(flags, monkeypatch, capsys):
    flags = [*flags, "--digits", 2, "--updates", 3, "--problems", 30, "--group-size", 4]
    config, corpus, _ = small(*flags, "--test-size", 20)
    decode, model, used = corpus.tokenizer.decode, Guesser(corpus), []

    def policy_loss(model, prompts, answers, advantages):
        used.append((prompts, answers, advantages))
        return 0 * model.weight.sum()

    monkeypatch.setattr(reward, "policy_loss", policy_loss)
    reward.practise(model, corpus, config)
    means = []
    for prompts, answers in model.drawn:
        rights = []
        for prompt, answer in zip(prompts, answers, strict=True):
            a, b = map(int, re.findall(r"\d+", decode(prompt)))
            assert (a + b + a * b) % 11 != 0  # not in the test
            said = int(decode(answer)[::-1])
            rights.append(float(said % 10 == (a + b) % 10 if config.lenient else said == a + b))
        groups = torch.tensor(rights).view(30, 4)
        assert all(len(set(map(decode, group))) == 1 for group in prompts.view(30, 4, -1))
        wanted = groups if config.imitate else groups - groups.mean(dim=1, keepdim=True)
        if config.divide:
            wanted = wanted / (groups.std(dim=1, keepdim=True) + 1e-4)
        wanted = wanted.flatten()
        kept = wanted != 0
        for found, expected in zip(used.pop(0), (prompts, answers, wanted), strict=True):
            torch.testing.assert_close(found, expected[kept])
        means.append(groups.mean().item())
    assert len({tuple(prompts.flatten().tolist()) for prompts, _ in model.drawn}) == 3
    shown = re.findall(r"update (\d): reward ([\d.]+), right (\d+)", capsys.readouterr().out)
    assert shown == [(str(i), f"{means[i]:.3f}", "20") for i in (0, 2)]


def test_answers_are_drawn_with_the_probabilities_of_the_model():
    _, corpus, model = small("--digits", 1)
    prompt = corpus.lines(torch.tensor([[3, 9]]))[:, :4]
    probs = model(prompt)[0][0, -1].softmax(dim=-1)
    (drawn,) = model.generate(prompt.expand(20_000, -1), 1, draw=True)
    counts = drawn.flatten().bincount(minlength=len(probs))
    torch.testing.assert_close(counts / 20_000, probs.detach(), atol=0.015, rtol=0)
    (likeliest,) = model.generate(prompt, 1)
    assert likeliest.item() == probs.argmax()


def test_the_model_learns_from_the_solved_sums_alone():
    config, corpus, _ = small("--solved", 20)
    x, y = corpus.batch("train", 2000, config.block_size)
    lines = {tuple(row) for row in torch.cat((x, y[:, -1:]), dim=1).tolist()}
    assert lines == set(map(tuple, corpus.lines(corpus.solved).tolist()))
    assert not ((corpus.solved.sum(dim=1) + corpus.solved.prod(dim=1)) % 11 == 0).any()
    x, _ = corpus.batch("val", 200, config.block_size)
    assert not {tuple(row) for row in x.tolist()} & {line[:-1] for line in lines}


def test_settings_are_chosen_with_problems_that_are_not_in_the_test():
    config, _, _ = small("--digits", 2)
    corpus = measure.hold_out_others(reward.Corpus)(config, torch.device("cpu"))
    rest = {
        split: {(a + b + a * b) % 11 for a, b in corpus.draw(split, 500).tolist()}
        for split in ("train", "val")
    }
    assert rest == {"train": set(range(2, 11)), "val": {1}}
    assert {(a + b + a * b) % 11 for a, b in corpus.solved.tolist()} <= rest["train"]


@pytest.mark.slow
@pytest.mark.parametrize("imitate", [[], ["--imitate"]])
def test_practice_makes_the_model_better(imitate, capsys):
    flags = ["--digits", 1, "--solved", 30, "--max-iters", 150, "--learning-rate", 3e-3]
    flags += ["--updates", 150, "--practice-rate", 2e-3, *imitate]
    reward.main(reward.parse_args([*SMALL, *map(str, flags)]))
    shown = re.findall(r"reward ([\d.]+)", capsys.readouterr().out)
    assert float(shown[-1]) > float(shown[0]) + 0.05, shown
