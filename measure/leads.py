"""Ideas for lesson 14, each an edit of its file: three paired seeds, at 300 and at 1,200 steps.

    python measure/leads.py
    python measure/leads.py "squared ReLU" --steps 300

Trains beyond/14_muon.py at the laptop size with and without each edit, on the same batches. The
losses are those of the last tenth of the training split; the models learn from the rest of it. The
table goes to standard output as Markdown, for measure/results/tried.md: the mean loss, and each
seed's difference to the file as it is.
"""

import argparse
import concurrent.futures
import itertools
import multiprocessing
import os
import statistics

from losses import SEEDS, run

STEP = "14_muon"
EDITS = {  # for each idea: old text in the file, new text
    "value residual (2410.17897)": [
        (
            "        self.rotary = rotary\n",
            "        self.rotary = rotary\n        self.mix = nn.Parameter(torch.tensor(0.5))\n",
        ),
        (
            "        # A turned query times",
            "        if self.first:\n"
            "            self.rotary.value = v\n"
            "        v = v + self.mix * (self.rotary.value - v)\n"
            "        # A turned query times",
        ),
        (
            "        self.norm = nn.LayerNorm(config.n_embd)\n        self.lm_head",
            "        for i, block in enumerate(self.blocks):\n"
            "            block.attention.first = i == 0\n"
            "        self.norm = nn.LayerNorm(config.n_embd)\n        self.lm_head",
        ),
    ],
    "projections that start at zero (2003.04887)": [
        (
            "                nn.init.zeros_(module.bias)\n",
            "                nn.init.zeros_(module.bias)\n"
            "        for block in self.blocks:\n"
            "            nn.init.zeros_(block.attention.proj.weight)\n"
            "            nn.init.zeros_(block.feed_forward.down.weight)\n",
        ),
    ],
    "a learnt share of the embedding in each block's input": [
        (
            "        self.norm = nn.LayerNorm(config.n_embd)\n        self.lm_head",
            "        self.keep = nn.Parameter(torch.ones(config.n_layer))\n"
            "        self.share = nn.Parameter(torch.zeros(config.n_layer))\n"
            "        self.norm = nn.LayerNorm(config.n_embd)\n        self.lm_head",
        ),
        (
            "        x = self.blocks(x)  # (B, T, C)\n",
            "        first = x\n"
            "        for i, block in enumerate(self.blocks):\n"
            "            x = block(self.keep[i] * x + self.share[i] * first)\n",
        ),
    ],
    "squared ReLU instead of SwiGLU (2109.08668)": [
        ("hidden = 8 * config.n_embd // 3", "hidden = 4 * config.n_embd"),
        ("        self.gate = nn.Linear(config.n_embd, hidden)\n", ""),
        ("F.silu(self.gate(x)) * self.up(x)", "F.relu(self.up(x)).square()"),
        (
            '        {"params": [block.feed_forward.gate.weight for block in model.blocks]},\n',
            "",
        ),
    ],
    "gradients clipped at norm 1": [
        (
            "        loss.backward()\n",
            "        loss.backward()\n"
            "        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)\n",
        ),
    ],
    "the coefficients of Polar Express (2505.16932)": [
        (
            "    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)",
            "    coefficients = [\n"
            "        (8.156554524902461, -22.48329292557795, 15.878769915207462),\n"
            "        (4.042929935166739, -2.808917465908714, 0.5000178451051316),\n"
            "        (3.8916678022926607, -2.772484153217685, 0.5060648178503393),\n"
            "        (3.285753657755655, -2.3681294933425376, 0.46449024233003106),\n"
            "        (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),\n"
            "    ]\n"
            "    x = x / (x.norm(dim=(1, 2), keepdim=True) * 1.02 + 1e-7)",
        ),
        ("for _ in range(5):", "for c1, c3, c5 in coefficients:"),
        ("beta=-4.7750, alpha=2.0315", "beta=c3, alpha=c5"),
        ("beta=3.4445", "beta=c1"),
    ],
    "momentum that rises from 0.85 to 0.95 over 300 steps": [
        (
            "        adamw.step()\n",
            "        for group in muon.param_groups:\n"
            '            group["momentum"] = 0.85 + 0.1 * min(step / 300, 1)\n'
            "        adamw.step()\n",
        ),
    ],
}


def main() -> None:
    """Print the table of the ideas that the command line names, or of all."""
    about, details = __doc__.split("\n", 1)
    parser = argparse.ArgumentParser(
        description=about, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("ideas", nargs="*", help="the beginnings of their names; all, without any")
    parser.add_argument("--steps", type=int, nargs="+", default=[300, 1200])
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs side by side")
    args = parser.parse_args()
    ideas = [name for name in EDITS if not args.ideas or name.startswith(tuple(args.ideas))]
    edits = {"the file as it is": []} | {name: EDITS[name] for name in ideas}
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(args.jobs, context) as pool:
        jobs = {}
        for steps, name, seed in itertools.product(args.steps, edits, SEEDS):
            flags = f"--size laptop --max-iters {steps} --eval-interval {steps}".split()
            jobs[steps, name, seed] = pool.submit(run, STEP, seed, flags, True, edits[name])
        for steps in args.steps:
            print(f"\n| {steps} steps | mean | differences, seed by seed |\n| --- | --- | --- |")
            base = [jobs[steps, "the file as it is", seed].result()["val_loss"] for seed in SEEDS]
            for name in edits:
                losses = [jobs[steps, name, seed].result()["val_loss"] for seed in SEEDS]
                apart = ", ".join(f"{a - b:+.3f}" for a, b in zip(losses, base, strict=True))
                print(f"| {name} | {statistics.mean(losses):.3f} | {apart} |", flush=True)


if __name__ == "__main__":
    main()
