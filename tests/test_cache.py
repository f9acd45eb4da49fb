"""Step 15: sampling with the keys and values kept is sampling without, in less work."""

import gc
import importlib

import pytest
import torch
import torch.nn.functional as F
from conftest import STEPS, small_model

STEP14, STEP15 = (importlib.import_module(name) for name in ("14_muon", "15_cache"))
CACHING = [step for step in STEPS if hasattr(step, "Cache")]
T = 8  # block_size of the toy size
EXACT = {"rtol": 0, "atol": 1e-12}


@pytest.fixture(autouse=True)
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def shaken(step, **settings):
    """A toy model, no weight of which is 0, and whose attention is not nearly uniform."""
    model = small_model(step, **settings)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.5 * torch.randn_like(p)
    return model.eval()


def kept_as_without(step, model):
    """The model of the step before, which keeps nothing, with the same weights."""
    plain = small_model(STEP14)
    weights = {name: p for name, p in model.state_dict().items() if "frequencies" not in name}
    missing = plain.load_state_dict(weights, strict=False).missing_keys
    assert {name.rpartition(".")[2] for name in missing} <= {"cos", "sin"}
    return plain.eval()


def write(model, prompt, count, **how):
    torch.manual_seed(5)
    return torch.cat([prompt, *model.generate(prompt, count, **how)], dim=1)


@pytest.mark.parametrize("step", CACHING)
@pytest.mark.parametrize("how", [{}, {"temperature": 0.5}, {"top_k": 3}], ids=str)
@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("length", [1, 5])
def test_up_to_block_size_the_text_is_that_of_step_14(step, how, batch, length):
    model = shaken(step)
    plain = kept_as_without(step, model)
    prompt = torch.randint(65, (batch, length))
    count = T + 1 - length  # the last is drawn from T characters
    assert torch.equal(write(model, prompt, count, **how), write(plain, prompt, count, **how))


@pytest.mark.parametrize("step", CACHING)
def test_a_long_prompt_is_cut_as_in_step_14(step):
    model = shaken(step)
    plain = kept_as_without(step, model)
    prompt = torch.randint(65, (2, 3 * T))
    assert torch.equal(write(model, prompt, 1), write(plain, prompt, 1))


@pytest.mark.parametrize("step", CACHING)
@pytest.mark.parametrize("pieces", [[8], [5, 3], [1, 7], [2, 1, 4, 1], [1] * 8], ids=str)
def test_logits_of_a_text_in_pieces_are_those_of_the_whole(step, pieces):
    model, idx = shaken(step), torch.randint(65, (3, T))
    caches = [step.Cache(T) for _ in model.blocks]
    with torch.no_grad():
        logits = [model(piece, caches=caches)[0] for piece in idx.split(pieces, dim=1)]
        torch.testing.assert_close(torch.cat(logits, dim=1), model(idx)[0], **EXACT)


def banded(q, k, v, **_):
    """Attention in a long text, each position to itself and the T - 1 before it."""
    distance = torch.arange(q.shape[2])[:, None] - torch.arange(q.shape[2])  # (L, L)
    mask = (distance >= 0) & (distance < T)
    scores = (q @ k.mT * k.shape[-1] ** -0.5).masked_fill(~mask, float("-inf"))
    return scores.softmax(-1) @ v


@pytest.mark.parametrize("step", CACHING)
def test_past_block_size_each_layer_looks_back_over_the_last_block_size_positions(
    step, monkeypatch
):
    """One character at a time, against a long text in one piece with a mask of that width."""
    model, idx = shaken(step), torch.randint(65, (2, 5 * T))
    caches = [step.Cache(T) for _ in model.blocks]
    with torch.no_grad():
        logits = [model(piece, caches=caches)[0] for piece in idx.split(1, dim=1)]

        def forward(attention, x, cache=None):
            B, L, C = x.shape
            qkv = attention.qkv(x).view(B, L, 3, attention.n_head, C // attention.n_head)
            q, k, v = qkv.permute(2, 0, 3, 1, 4)
            q, k = F.rms_norm(q, q.shape[-1:]), F.rms_norm(k, k.shape[-1:])
            x = banded(attention.rotary(q, 0), attention.rotary(k, 0), v)
            return attention.proj(x.transpose(1, 2).reshape(B, L, C))

        monkeypatch.setattr(step.MultiHeadAttention, "forward", forward)
        torch.testing.assert_close(torch.cat(logits, dim=1), model(idx)[0], **EXACT)


@pytest.mark.parametrize("step", CACHING)
def test_a_kept_key_is_right_wherever_the_text_has_got_to(step):
    """The products of queries and keys do not change when both move on by a million characters."""
    rotary = shaken(step).float().blocks[0].attention.rotary
    q, k = torch.randn(2, 1, 4, T, 8, dtype=torch.float32)
    here, there = (rotary(q, start) @ rotary(k, start).mT for start in (0, 1_000_000))
    torch.testing.assert_close(there, here, rtol=0, atol=0.2)  # float32 rounds the angles
    far, q, k = rotary.double(), q.double(), k.double()
    here, there = (far(q, start) @ far(k, start).mT for start in (0, 1_000_000))
    torch.testing.assert_close(there, here, rtol=0, atol=1e-8)


@pytest.mark.parametrize("step", CACHING)
def test_two_samples_at_once_do_not_disturb_each_other_or_training(step):
    model, prompt = shaken(step), torch.randint(65, (1, 3))
    alone = write(model, prompt, 30, top_k=1)
    x = torch.randint(65, (2, T))
    loss = model(x, x)[1]
    a, b = (model.generate(prompt, 30, top_k=1) for _ in range(2))
    pairs = list(zip(a, b, strict=True))
    for found in zip(*pairs, strict=True):
        assert torch.equal(torch.cat([prompt, *found], dim=1), alone)
    unfinished = model.generate(prompt, 30)
    next(unfinished)
    assert torch.equal(model(x, x)[1], loss)


@pytest.mark.parametrize("step", CACHING)
def test_memory_does_not_grow_with_the_text(step):
    """What all tensors take, in bytes, after the window is full and much later."""

    def bytes_of_tensors():
        gc.collect()
        tensors = [x for x in gc.get_objects() if issubclass(type(x), torch.Tensor)]
        storages = [tensor.untyped_storage() for tensor in tensors]
        return sum({s.data_ptr(): s.nbytes() for s in storages}.values())

    sampling = shaken(step).generate(torch.zeros((4, 1), dtype=torch.long), 400)
    taken = []
    for i, _ in enumerate(sampling):
        if i in (2 * T, 390):
            taken.append(bytes_of_tensors())
    assert taken[0] == taken[1]
