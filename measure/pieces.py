"""What the pieces of a step give: step 2 without positions, step 6 built up, lessons 10 and 14.

    python measure/pieces.py
    python measure/pieces.py 10_schedule

Takes pieces out of a step in its source, and trains what is left with three seeds. The losses over
the whole validation split go to measure/results/pieces.json.
"""

import json

import losses

NO_NORM = [("nn.LayerNorm(config.n_embd)", "nn.Identity()")]
NO_WIDTH = [("4 * config.n_embd", "config.n_embd")]
NO_PROJECTION = [
    ("        self.proj = nn.Linear(config.n_embd, config.n_embd)\n", ""),
    ("return self.proj(x)", "return x"),
    ("            nn.Linear(4 * config.n_embd, config.n_embd),\n", ""),
]
CONSTANT = [("return config.learning_rate * left", "return config.learning_rate")]
NO_POSITIONS = [(" + self.position_embedding(positions)", "")]
PIECES = {  # of a step: a name for what is left, its flags, and the edits of the source
    "02_self_attention": {"no positions": ("", NO_POSITIONS)},
    "06_residual_layernorm": {
        "step 5 + residual connections": ("", NO_PROJECTION + NO_WIDTH + NO_NORM),
        "+ projections": ("", NO_WIDTH + NO_NORM),
        "+ four times the width": ("", NO_NORM),
        "+ layer norm, which is step 6": ("", []),
    },
    "10_schedule": {
        "constant, no warm-up": ("--warmup-iters 0", CONSTANT),
        "constant after the warm-up": ("", CONSTANT),
    },
    "13_swiglu": {"the learning rate of step 14": ("--learning-rate 1e-2", [])},
}
RESULTS = losses.RESULTS.with_name("pieces.json")


def main() -> None:
    """Train each variant, and print and write its losses."""
    parser = losses.arguments(__doc__)
    parser.add_argument(
        "steps", nargs="*", help=f"of {', '.join(PIECES)}; all, where none is named"
    )
    args = parser.parse_args()
    with losses.processes() as pool:
        jobs = {
            (step, piece): [
                pool.submit(losses.run, step, seed, flags.split(), False, edits)
                for seed in losses.SEEDS
            ]
            for step in args.steps or PIECES
            for piece, (flags, edits) in PIECES[step].items()
        }
        found = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
        for (step, piece), runs in jobs.items():
            figures = losses.summary([one.result() for one in runs])
            print(step, piece, *figures.values(), flush=True)
            found.setdefault(step, {})[piece] = figures
    losses.write(found | {"machine": losses.machine()}, RESULTS)


if __name__ == "__main__":
    main()
