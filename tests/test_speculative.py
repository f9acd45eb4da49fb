"""Speculative sampling: what is written has the distribution of the lesson, with any table."""

import importlib
import sys
from types import ModuleType

import pytest
import torch
from conftest import FILES, SAMPLE, load, small_flags

lesson = load("19_ensemble")
speculative = importlib.import_module("beyond.speculative")
V = 3
SIZES = {"n_embd": 8, "n_head": 2, "n_layer": 2, "n_member": 2, "n_draft": 2, "block_size": 3}
TEXT = [0, 1, 2, 0, 1, 1, 0, 1, 2, 2, 0, 1, 2]


def models(script, vocab_size, **settings):
    """The lesson's model and the script's, with the same random weights."""
    torch.manual_seed(3)
    sizes = SIZES | settings
    new = script.LanguageModel(script.Config(**sizes), vocab_size)
    del sizes["n_draft"]
    old = lesson.LanguageModel(lesson.Config(**sizes), vocab_size)
    for p in old.parameters():
        torch.nn.init.normal_(p, std=0.7)  # far from uniform, also in what attention adds
    new.load_state_dict(old.state_dict(), strict=False)
    assert all(map(torch.equal, new.parameters(), old.parameters()))
    return old, new


class Branches:
    """torch's random draws, made in each possible way in turn: a walk through a tree."""

    def __init__(self, monkeypatch):
        monkeypatch.setattr(torch, "multinomial", self.multinomial)
        monkeypatch.setattr(torch, "bernoulli", self.bernoulli)

    def choose(self, weights):
        """The next choice of the path, and its probability on the account."""
        probs = (weights / weights.sum()).tolist()
        if self.at == len(self.path):
            self.path.append([i for i, prob in enumerate(probs) if prob > 0])
        self.at += 1
        choice = self.path[self.at - 1][0]
        self.probability *= probs[choice]
        return choice

    def multinomial(self, weights, num_samples):
        assert num_samples == 1
        rows = [self.choose(row.double()) for row in weights.view(-1, weights.shape[-1])]
        return torch.tensor(rows).view(*weights.shape[:-1], 1)

    def bernoulli(self, probs):
        return torch.tensor([self.choose(torch.tensor([1 - p, p])) for p in probs.tolist()])

    def distribution(self, generate):
        """The probability of each text that the function can return."""
        found, self.path = {}, []
        while True:
            self.at, self.probability = 0, 1.0
            text = generate()
            found[text] = found.get(text, 0) + self.probability
            while self.path and len(self.path[-1]) == 1:
                self.path.pop()
            if not self.path:
                return found
            self.path[-1].pop(0)


def distributions(script, monkeypatch, n=3, **settings):
    """Of n tokens: the lesson's, token by token, and the script's, each by all its outcomes."""
    old, new = models(script, V, **settings)
    prompt, draft = torch.tensor([[0, 1, 2, 1]]), script.Draft(TEXT, V)  # the window slides at once
    branches = Branches(monkeypatch)
    wanted = branches.distribution(
        lambda: tuple(torch.cat([*old.generate(prompt, n)], 1)[0].tolist())
    )
    how = n, draft, SIZES["n_draft"]
    found = branches.distribution(
        lambda: tuple(torch.cat([*new.generate(prompt, *how)], 1)[0].tolist())
    )
    return wanted, found


def largest_difference(wanted, found):
    return max(abs(wanted.get(text, 0) - found.get(text, 0)) for text in wanted | found)


def test_each_text_has_the_probability_that_it_has_token_by_token(monkeypatch):
    wanted, found = distributions(speculative, monkeypatch)
    assert len(wanted) == V**3
    assert sum(found.values()) == pytest.approx(1)
    assert max(wanted.values()) > 2 * V**-3
    assert largest_difference(wanted, found) < 1e-5


DEFECTS = {
    "a refused token is drawn from all of p": ("(p[n] - q[n]).clamp(min=0)", "p[n]"),
    "q is not normalised": (
        "q[i] = probabilities(counts.log(), temperature)",
        "q[i] = counts / 50",
    ),
    "refused keys stay in the cache": ("cache.drop(len(drafts) + 1 - len(tokens))", "pass"),
    "a key too many is dropped": ("+ 1 - len(tokens))", "+ 2 - len(tokens))"),
    "a draft sees further back than the context": (".triu(1 - config.block_size)", ""),
    "the window slides too early": ("S = self.block_size - 1 + k", "S = self.block_size - 2 + k"),
    "a draft after a refused one is kept": ("kept.cumprod(dim=0).sum()", "kept.sum()"),
    "a token too many": ("drafts[:n], torch", "drafts[: n + 1], torch"),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_changes_the_distribution(defect, monkeypatch):
    source = FILES["speculative"].read_text(encoding="utf-8")
    old, new = DEFECTS[defect]
    assert source.count(old) == 1
    script = ModuleType("planted")
    script.__file__ = str(FILES["speculative"])
    monkeypatch.setitem(sys.modules, "planted", script)  # dataclasses looks there
    exec(compile(source.replace(old, new), "planted", "exec"), script.__dict__)
    assert largest_difference(*distributions(script, monkeypatch, n_member=1)) > 1e-3


def test_tokens_are_drawn_so_in_many_draws():
    torch.manual_seed(1)
    p = torch.tensor([[0.6, 0.3, 0.1], [0.1, 0.1, 0.8]])
    q = torch.tensor([[0.1, 0.5, 0.4]])
    drafts = q.multinomial(30_000, replacement=True)[0]
    drawn = [speculative.check(draft[None], q, p).tolist() for draft in drafts]
    first = torch.tensor([tokens[0] for tokens in drawn]).bincount(minlength=3) / len(drawn)
    torch.testing.assert_close(first, p[0], atol=0.01, rtol=0)
    second = torch.tensor([tokens[1] for tokens in drawn if len(tokens) > 1])
    both = torch.minimum(p[0], q[0]).sum().item()
    assert len(second) / len(drawn) == pytest.approx(both, abs=0.01)
    second = second.bincount(minlength=3) / len(second)
    torch.testing.assert_close(second, p[1], atol=0.015, rtol=0)


@pytest.mark.parametrize("n_draft", [0, 1, 4])
def test_without_chance_the_text_is_that_of_the_lesson(n_draft, monkeypatch):
    old, new = models(speculative, 20, block_size=8, n_draft=n_draft)
    text = torch.randint(20, (300,)).tolist()
    prompt = torch.tensor([[7]])

    def likeliest(probs, num_samples):
        return probs.argmax(dim=-1, keepdim=True)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "multinomial", likeliest)
        wanted = torch.cat([*old.generate(prompt, 50)], dim=1)
    # The table has what is to come, so that drafts are kept, and noise, so that some are refused.
    draft = speculative.Draft(text + wanted[0].tolist(), 20)
    passes = [*new.generate(prompt, 50, draft, n_draft, temperature=0)]
    assert torch.equal(torch.cat(passes, dim=1), wanted)
    lengths = {tokens.shape[1] for tokens in passes}
    assert lengths == {1} if n_draft == 0 else {1, n_draft + 1} <= lengths


def test_the_table_counts_what_follows():
    draft = speculative.Draft(TEXT, V)
    _, q = draft.draw([0, 1], 1, temperature=1.0)
    # After 0 1 come 2, 1, 2, 2, and after 1 come 2, 1, 0, 2, 2.
    after_one = (torch.tensor([1.0, 1.0, 3.0]) + 1) / 8
    wanted = (torch.tensor([0.0, 1.0, 3.0]) + 3 * after_one) / 7
    torch.testing.assert_close(q[0], wanted)
    drafts, q = draft.draw([0, 1], 3, temperature=0)
    assert drafts.tolist() == [2, 0, 1]
    assert torch.equal(q, torch.eye(V)[drafts])


def test_a_run_writes_with_and_without_drafts(capsys):
    flags = small_flags(speculative, max_iters=1, vocab_size=70, prompt="MARGERY", n_draft=3)
    model, corpus = speculative.main(speculative.parse_args([*flags, "--data", str(SAMPLE)]))
    one, two = capsys.readouterr().out.split("MARGERY")[1:]
    assert "\n0 drafts a pass: 40 passes, " in one
    assert "\n3 drafts a pass: " in two
    assert model.members[0].blocks[0].attention.seen.shape == (11, 11)
    assert corpus.tokenizer.vocab_size == 70
