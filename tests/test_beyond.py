"""What the steps after 9 promise: less time, the schedule, rotary positions, the block, Muon."""

import shutil

import pytest
import torch
import torch.nn.functional as F
from conftest import FILES, SCRIPTS, STEPS, run, small_config, small_flags, small_model
from torch import nn

BY_NAME = dict(zip(SCRIPTS, STEPS, strict=True))
STEP9, STEP10, STEP11 = (BY_NAME[n] for n in ("09_keep", "10_fast", "11_recipe"))
STEP12, STEP13, STEP14 = (BY_NAME[n] for n in ("12_rotary", "13_modern", "14_muon"))
FAST = [step for step in STEPS if hasattr(step, "autocast")]
SCHEDULED = [step for step in STEPS if hasattr(step, "schedule")]
ROTARY = [step for step in STEPS if hasattr(step, "Rotary")]
CPU = torch.device("cpu")
QUICK = {"max_iters": 12, "eval_interval": 6}


def printed(step, tmp_path, capsys, *more, **settings):
    """What a toy run prints, in this process."""
    flags = small_flags(step, tmp_path, **QUICK | settings)
    step.main(step.parse_args([*flags, *more]))
    (tmp_path / "model.pt").unlink()
    return capsys.readouterr().out


# --- Step 10: the same mathematics in less time ---


@pytest.fixture
def built_for_bfloat16(monkeypatch):
    """As on a CPU built for it; any other computes the same, slowly."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})


def test_in_float32_step_10_is_step_9_to_the_digit(tmp_path, capsys):
    before = printed(STEP9, tmp_path, capsys)
    assert printed(STEP10, tmp_path, capsys, "--float32") == before


@pytest.mark.usefixtures("built_for_bfloat16")
def test_in_bfloat16_the_loss_is_nearly_the_same(tmp_path, capsys):
    exact = printed(STEP10, tmp_path, capsys, "--float32").splitlines()[1:4]
    rounded = printed(STEP10, tmp_path, capsys).splitlines()[1:4]
    assert exact != rounded
    for a, b in zip(exact, rounded, strict=True):
        assert float(a.split()[-1]) == pytest.approx(float(b.split()[-1]), abs=0.02)


@pytest.mark.parametrize(
    ("built", "flags", "wanted"),
    [
        ({"avx512_bf16": True}, {}, True),
        ({"avx512_bf16": True}, {"float32": True}, False),
        ({"avx512_bf16": False}, {}, False),
        ({}, {}, False),  # another kind of processor
    ],
)
@pytest.mark.parametrize("step", FAST)
def test_bfloat16_is_for_processors_built_for_it(step, built, flags, wanted, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: built)
    layer = nn.Linear(4, 4)
    with step.autocast(small_config(step, **flags), CPU):
        assert layer(torch.ones(1, 4)).dtype is (torch.bfloat16 if wanted else torch.float32)
    with step.autocast(small_config(step), torch.device("mps")):
        assert not torch.is_autocast_enabled("mps")


@pytest.mark.usefixtures("built_for_bfloat16")
@pytest.mark.parametrize("step", FAST)
def test_forward_and_loss_are_in_bfloat16_and_nothing_else(step, corpus, tmp_path, monkeypatch):
    """The forward pass is; the backward pass, the optimiser and the weights are not."""
    config = small_config(step, max_iters=3, eval_interval=3, checkpoint=tmp_path / "model.pt")
    model, seen = small_model(step, corpus.vocab_size), {"forward": set(), "back": set()}
    layer = model.blocks[0].attention.qkv
    layer.register_forward_hook(lambda *args: seen["forward"].add(args[-1].dtype))

    def back(*_):
        seen["back"].add(torch.is_autocast_enabled("cpu"))

    layer.register_full_backward_hook(back)
    real = torch.optim.AdamW.step

    def optimizer_step(self, *args):
        assert not torch.is_autocast_enabled("cpu")
        return real(self, *args)

    monkeypatch.setattr(torch.optim.AdamW, "step", optimizer_step)
    step.train(model, corpus, config, CPU)
    assert seen == {"forward": {torch.bfloat16}, "back": {False}}
    assert {p.dtype for p in model.parameters()} == {torch.float32}


@pytest.mark.usefixtures("built_for_bfloat16")
@pytest.mark.parametrize("step", FAST)
def test_each_step_computes_with_the_weights_of_the_last(step, corpus, tmp_path):
    """No rounded copy of a weight outlives its step: else the loss would not move."""
    settings = {"max_iters": 30, "eval_interval": 30, "learning_rate": 1e-2}
    config = small_config(step, **settings, checkpoint=tmp_path / "model.pt")
    model, losses = small_model(step, corpus.vocab_size), []

    def keep_loss(model, _, output):
        if model.training:
            losses.append(output[1].item())

    model.register_forward_hook(keep_loss)
    step.train(model, corpus, config, CPU)
    assert len(losses) == 30
    assert sum(losses[-5:]) < sum(losses[:5]) - 0.5


class LikeCuda(torch.Tensor):
    """A tensor that says it is on a GPU."""

    is_cuda = True


@pytest.mark.parametrize("step", FAST)
def test_fused_attention_is_the_one_written_out(step):
    torch.manual_seed(0)
    attention = step.MultiHeadAttention(small_config(step, dropout=0.0)).double()
    for p in attention.parameters():
        nn.init.normal_(p, std=0.3)
    x = torch.randn(3, 8, 32, dtype=torch.float64)
    calls, real = [], F.scaled_dot_product_attention
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            F, "scaled_dot_product_attention", lambda *a, **k: (calls.append(k), real(*a, **k))[1]
        )
        open_, fused = attention(x), attention(x.as_subclass(LikeCuda))
    assert len(calls) == 1  # the second alone
    torch.testing.assert_close(fused.as_subclass(torch.Tensor), open_, rtol=0, atol=1e-12)


@pytest.mark.parametrize("step", FAST)
def test_fused_attention_drops_weights_in_training_alone(step):
    torch.manual_seed(0)
    attention = step.MultiHeadAttention(small_config(step, dropout=0.5))
    attention.dropout.register_forward_hook(
        lambda _, args, __: args[0]
    )  # no dropout but on weights
    x = torch.randn(3, 8, 32).as_subclass(LikeCuda)
    assert not torch.equal(attention(x), attention(x))
    attention.eval()
    assert torch.equal(attention(x), attention(x))


@pytest.mark.slow
def test_a_missing_compiler_is_named_in_one_line(tmp_path):
    flags = small_flags(STEP10, tmp_path, max_iters=1)
    done = run(FILES["10_fast"], *flags, "--compile", CXX=str(tmp_path / "none"))
    assert done.returncode
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("--compile does not work here: ")
    assert not (tmp_path / "model.pt").exists()


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")
def test_compiled_it_computes_the_same(tmp_path):
    flags = small_flags(STEP10, tmp_path, max_iters=4, eval_interval=4, n_layer=1)
    losses = []
    for more in ([], ["--compile"]):
        done = run(FILES["10_fast"], *flags, *more, "--float32")
        assert done.returncode == 0, done.stderr
        losses.append([float(line.split()[-1]) for line in done.stdout.splitlines()[1:3]])
        (tmp_path / "model.pt").unlink()
    assert losses[0] == pytest.approx(losses[1], abs=2e-4)


# --- Step 11: the recipe ---


@pytest.mark.parametrize("step", SCHEDULED)
def test_the_schedule_is_torchs_warm_up_and_linear_decay(step):
    config = step.Config(max_iters=50, warmup_iters=10)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    rise = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / 10, 1.0, total_iters=9)
    fall = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 1e-9, total_iters=40)
    torchs = torch.optim.lr_scheduler.SequentialLR(optimizer, [rise, fall], milestones=[10])
    for i in range(51):
        wanted = optimizer.param_groups[0]["lr"]
        assert step.schedule(i, config) == pytest.approx(wanted, abs=1e-6), i
        optimizer.step()
        torchs.step()
    assert step.schedule(0, config) == 0.1
    assert step.schedule(9, config) == step.schedule(10, config) == 1
    assert step.schedule(30, config) == 0.5
    assert step.schedule(50, config) == 0


@pytest.mark.parametrize("step", SCHEDULED)
def test_a_run_shorter_than_the_warm_up_only_rises(step):
    config = step.Config(max_iters=4, warmup_iters=10)
    shares = [step.schedule(i, config) for i in range(4)]
    assert shares == pytest.approx([0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize("step", SCHEDULED)
def test_the_rate_of_each_step_is_the_schedules(step, corpus, tmp_path, monkeypatch):
    config = small_config(step, max_iters=9, warmup_iters=3, checkpoint=tmp_path / "model.pt")
    rates, real = [], torch.optim.AdamW.step

    def optimizer_step(self, *args):
        rates.append({group["lr"] for group in self.param_groups})
        return real(self, *args)

    monkeypatch.setattr(torch.optim.AdamW, "step", optimizer_step)
    step.train(small_model(step, corpus.vocab_size), corpus, config, CPU)
    wanted = [{config.learning_rate * step.schedule(i, config)} for i in range(9)]
    assert rates == wanted


def test_weight_decay_shrinks_matrices_and_no_vector(corpus, tmp_path):
    """Two runs that differ by it, from the same weights, by hardly more than one step."""
    ends = []
    for decay in (0.0, 0.5):
        settings = {"max_iters": 1, "warmup_iters": 1, "weight_decay": decay}
        settings |= {"learning_rate": 0.1, "checkpoint": tmp_path / f"{decay}.pt"}
        model = small_model(STEP11, corpus.vocab_size)
        start = {name: p.detach().clone() for name, p in model.named_parameters()}
        torch.manual_seed(1)
        STEP11.train(model, corpus, small_config(STEP11, **settings), CPU)
        ends.append(dict(model.named_parameters()))
    for name, before in start.items():
        without, decayed = ends[0][name], ends[1][name]
        shrunk = without - decayed
        wanted = 0.1 * 0.5 * before if before.dim() == 2 else torch.zeros_like(before)
        torch.testing.assert_close(shrunk, wanted, rtol=0, atol=1e-6)


# --- Step 12: rotary positions ---


def as_complex(x):
    """Pairs of features, one from each half, as complex numbers: (..., head_size / 2)."""
    return torch.view_as_complex(torch.stack(x.chunk(2, dim=-1), dim=-1).contiguous())


def rotary_of(step, **settings):
    """The step's Rotary in float64, for positions from 0 on, and its config."""
    config = small_config(step, **settings)
    rotary = step.Rotary(config).double()
    from_zero = (0,) if hasattr(step, "Cache") else ()  # which has a text begin anywhere
    return lambda x: rotary(x, *from_zero), config


@pytest.mark.parametrize("step", ROTARY)
def test_rotary_is_a_multiplication_with_complex_numbers_of_length_1(step):
    torch.manual_seed(0)
    rotary, config = rotary_of(step, block_size=16)
    head_size = config.n_embd // config.n_head
    x = torch.randn(2, config.n_head, 16, head_size, dtype=torch.float64)
    theta = 10000.0 ** (-2 * torch.arange(head_size // 2, dtype=torch.float64) / head_size)
    angles = torch.arange(16, dtype=torch.float64)[:, None] * theta
    wanted = as_complex(x) * torch.polar(torch.ones_like(angles), angles)
    torch.testing.assert_close(as_complex(rotary(x)), wanted, rtol=0, atol=1e-6)
    torch.testing.assert_close(rotary(x).norm(dim=-1), x.norm(dim=-1))
    assert torch.equal(rotary(x)[:, :, 0], x[:, :, 0])


@pytest.mark.parametrize("step", ROTARY)
def test_a_score_depends_on_the_distance_alone(step):
    torch.manual_seed(0)
    rotary, _ = rotary_of(step, block_size=32)
    q, k = torch.randn(2, 1, 1, 1, 8, dtype=torch.float64)
    scores = (rotary(q.expand(1, 1, 32, 8)) @ rotary(k.expand(1, 1, 32, 8)).mT)[0, 0]  # (T, T)
    for distance in range(-31, 32):
        along = scores.diagonal(distance)
        torch.testing.assert_close(along, along[:1].expand_as(along), rtol=0, atol=1e-6)
    assert scores[0].std() > 0.1  # and on the distance it does depend


@pytest.mark.parametrize("step", ROTARY)
def test_an_odd_head_size_is_refused(step):
    with pytest.raises(ValueError, match="n_embd / n_head, 5, must be even"):
        step.Config(n_embd=20, n_head=4)


# --- Step 13: the block ---

MODERN = [step for step in STEPS if step.__name__ >= "13"]


@pytest.mark.parametrize("step", MODERN)
def test_a_block_begins_by_passing_on_what_it_gets(step):
    model = small_model(step, dropout=0.0)
    x = torch.randn(2, 8, 32)
    for block in model.blocks:
        assert torch.equal(block(x), x)
    idx = torch.randint(65, (2, 8))
    assert torch.equal(model(idx)[0], model.lm_head(model.norm(model.token_embedding(idx))))


@pytest.mark.parametrize("step", MODERN)
def test_queries_and_keys_have_one_length_and_attention_is_torchs(step):
    torch.manual_seed(0)
    config = small_config(step, dropout=0.0)
    attention = step.MultiHeadAttention(config).double()
    for p in attention.parameters():
        nn.init.normal_(p, std=0.3)
    x = torch.randn(3, 8, 32, dtype=torch.float64)
    norm = nn.RMSNorm(8, elementwise_affine=False, dtype=torch.float64)
    heads = attention.qkv(x).view(3, 8, 3, 4, 8).permute(2, 0, 3, 1, 4)
    rotary, _ = rotary_of(step, dropout=0.0)
    q, k = (rotary(norm(part)) for part in heads[:2])
    torch.testing.assert_close(q.norm(dim=-1), torch.full((3, 4, 8), 8**0.5).double())
    wanted = F.scaled_dot_product_attention(q, k, heads[2], is_causal=True)
    wanted = attention.proj(wanted.transpose(1, 2).flatten(2))
    torch.testing.assert_close(attention(x), wanted, rtol=0, atol=1e-10)
    with torch.no_grad():
        attention.qkv.weight[:64] *= 100  # queries and keys alone: only their direction counts
    torch.testing.assert_close(attention(x), wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("step", MODERN)
def test_feed_forward_is_torchs_gated_linear_unit_with_silu_for_sigmoid(step):
    torch.manual_seed(0)
    layer = step.FeedForward(small_config(step, dropout=0.0)).double()
    x = torch.randn(3, 8, 32, dtype=torch.float64)
    gate, up = layer.gate(x), layer.up(x)
    glu = F.glu(torch.cat((up, gate), dim=-1), dim=-1)  # up * sigmoid(gate)
    wanted = layer.down(gate * glu)  # silu(gate) = gate * sigmoid(gate)
    torch.testing.assert_close(layer(x), wanted, rtol=0, atol=1e-12)


def test_the_gate_costs_no_weights():
    """At both sizes the three matrices have what the two had, biases aside."""
    for n_embd in (96, 384):
        old, new = (s.FeedForward(s.Config(n_embd=n_embd)) for s in (STEP12, STEP13))
        counts = [sum(p.numel() for p in m.parameters() if p.dim() == 2) for m in (old, new)]
        assert counts[0] == counts[1]


# --- Step 14: Muon ---


@pytest.mark.parametrize("script", ["15_cache", "16_many"])
def test_steps_15_and_16_train_as_step_14_to_the_digit(script, tmp_path, capsys):
    before = printed(STEP14, tmp_path, capsys).splitlines()[:4]
    assert printed(BY_NAME[script], tmp_path, capsys).splitlines()[:4] == before


MUON = [step for step in STEPS if hasattr(step, "muon")]


@pytest.mark.parametrize("step", MUON)
@pytest.mark.parametrize(("rows", "columns"), [(6, 6), (16, 6), (6, 16)])
def test_orthogonal_brings_singular_values_near_1_and_keeps_their_directions(step, rows, columns):
    torch.manual_seed(0)
    x = torch.randn(4, rows, columns, dtype=torch.float64)
    u, s, v = torch.linalg.svd(x, full_matrices=False)
    found = step.orthogonal(x)
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.5
    assert values.max() < 1.3
    core = u.mT @ found @ v.mT  # diagonal, where it has the directions of x
    off = core - torch.diag_embed(core.diagonal(dim1=1, dim2=2))
    assert off.abs().max() < 1e-9
    assert core.diagonal(dim1=1, dim2=2).min() > 0.5


@pytest.mark.parametrize("step", MUON)
def test_muon_is_torchs_within_bfloat16(step):
    """Five updates of matrices of all shapes; torch computes them one by one, in bfloat16."""
    torch.manual_seed(0)
    model = small_model(step)
    groups = step.stacks_of(model)
    ours = torch.optim.AdamW(groups, lr=0.02)
    pairs = []  # a weight of ours, and the matrices in it that torch has
    for group in groups:
        for p in group["params"]:
            chunks = p.detach().clone().chunk(group["parts"])
            pairs.append((p, [nn.Parameter(chunk.clone()) for chunk in chunks]))
    matrices = [matrix for _, chunks in pairs for matrix in chunks]
    assert len(matrices) == 2 * (3 + 1 + 3)
    theirs = torch.optim.Muon(
        matrices, lr=0.02, momentum=0.85, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"
    )
    for _ in range(5):
        for p, chunks in pairs:
            p.grad = torch.randn_like(p) * torch.rand(())
            for matrix, grad in zip(chunks, p.grad.chunk(len(chunks)), strict=True):
                matrix.grad = grad.clone()
        step.muon(ours)
        ours.step()  # which finds no gradients
        theirs.step()
    start = dict(small_model(step).named_parameters())
    names = {id(p): name for name, p in model.named_parameters()}
    for p, chunks in pairs:
        assert p.grad is None
        before = start[names[id(p)]].detach()
        moved, wanted = p.detach() - before, torch.cat(chunks).detach() - before
        assert (moved - wanted).norm() < 0.02 * wanted.norm()


@pytest.mark.parametrize("step", MUON)
def test_muon_has_the_matrices_of_the_blocks_and_adamw_all_else(step, corpus, tmp_path):
    """Each weight moves once a step, and the schedule is that of both."""
    seen, real = [], step.muon

    def muon(optimizer):
        weights = [p for group in optimizer.param_groups for p in group["params"]]
        assert len(weights) == len(set(weights)) == len(list(model.parameters()))
        before = [p.detach().clone() for p in weights]
        real(optimizer)
        moved = {p for p, old in zip(weights, before, strict=True) if not torch.equal(p, old)}
        assert moved <= {p for p in weights if p.grad is None} == matrices
        seen.append(moved)

    config = small_config(step, max_iters=4, warmup_iters=1, checkpoint=tmp_path / "model.pt")
    model = small_model(step, corpus.vocab_size)
    matrices = {p for p in model.blocks.parameters() if p.dim() == 2}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step, "muon", muon)
        step.train(model, corpus, config, CPU)
    assert seen[0] < matrices  # behind a projection that is zero nothing has a gradient yet
    assert seen[-1] == matrices
    assert len(seen) == 4
