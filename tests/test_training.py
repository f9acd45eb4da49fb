"""How steps 1 to 8 evaluate and train: against a loop written out here, and against counting."""

import copy

import numpy as np
import pytest
import torch
from conftest import CPU, SAMPLE, STEPS, small_config, small_model

from common.data import CharTokenizer, Corpus, load_corpus


def test_training_is_the_videos_loop(step, corpus, capsys):
    """The same losses on the way and the same weights at the end as those of a loop of our own."""
    settings = {"learning_rate": 3e-3, "max_iters": 8, "eval_interval": 3, "dropout": 0.1}
    config = small_config(step, **settings)
    ours = small_model(step, corpus.tokenizer.vocab_size, **settings)
    theirs = copy.deepcopy(ours)
    torch.manual_seed(7)
    step.train(ours, corpus, config)

    torch.manual_seed(7)
    corpus = load_corpus(SAMPLE, CPU, seed=5)
    optimizer = torch.optim.AdamW(theirs.parameters(), lr=3e-3, fused=True)
    lines = []
    for i in range(8):
        if i in (0, 3, 6, 7):
            theirs.eval()
            train, val = (
                torch.tensor([theirs(*corpus.batch(split, 4, 8))[1].item() for _ in range(2)])
                for split in ("train", "val")
            )
            theirs.train()
            lines.append(f"step {i}: train loss {train.mean():.4f}, val loss {val.mean():.4f}")
        _, loss = theirs(*corpus.batch("train", 4, 8))
        theirs.zero_grad()
        loss.backward()
        optimizer.step()
    assert capsys.readouterr().out.splitlines() == lines
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.equal(p, q), name


def test_the_bigram_learns_the_pairs_that_can_be_counted():
    """Its loss falls to the entropy of the next character, given the current one."""
    bigram = STEPS[0]
    rng = np.random.default_rng(0)
    tokens = [0]
    for _ in range(3000):
        tokens.append(rng.choice(4, p=np.roll([0.6, 0.3, 0.05, 0.05], tokens[-1])))
    text = "".join("abcd"[token] for token in tokens)
    pairs = np.zeros((4, 4))
    np.add.at(pairs, (tokens[:-1], tokens[1:]), 1)
    entropy = -(pairs * np.log(pairs / pairs.sum(axis=1, keepdims=True))).sum() / pairs.sum()

    corpus = Corpus({"train": text, "val": text}, CharTokenizer(text), CPU, seed=1)
    config = bigram.Config(learning_rate=0.03, max_iters=300, eval_iters=1)
    model = bigram.LanguageModel(config, 4)
    bigram.train(model, corpus, config)
    _, loss = model(corpus.splits["train"][None, :-1], corpus.splits["train"][None, 1:])
    assert loss.item() == pytest.approx(entropy, abs=0.01)
    assert loss.item() > entropy - 1e-6  # no table can do better
