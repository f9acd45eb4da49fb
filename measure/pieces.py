"""What each of step 6's four pieces gives: step 5, and then the pieces one after the other.

    python measure/pieces.py

Takes the pieces out of step 6 in its source, and trains what is left with three seeds. The losses
over the whole validation split go to measure/results/pieces.json.
"""

import concurrent.futures
import json
import multiprocessing
import os

import losses

NO_NORM = [("nn.LayerNorm(config.n_embd)", "nn.Identity()")]
NO_WIDTH = [("4 * config.n_embd", "config.n_embd")]
NO_PROJECTION = [
    ("        self.proj = nn.Linear(config.n_embd, config.n_embd)\n", ""),
    ("return self.proj(x)", "return x"),
    ("            nn.Linear(4 * config.n_embd, config.n_embd),\n", ""),
]
PIECES = {  # the last piece, and the edits of step 6 that leave out the ones after it
    "residual connections": NO_PROJECTION + NO_WIDTH + NO_NORM,
    "projections": NO_WIDTH + NO_NORM,
    "four times the width": NO_NORM,
    "layer norm": [],
}
RESULTS = losses.RESULTS.with_name("pieces.json")


def main() -> None:
    """Train each variant, and print and write its losses."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(os.cpu_count(), context) as pool:
        jobs = {
            piece: [
                pool.submit(losses.run, "06_residual_layernorm", seed, [], False, edits)
                for seed in losses.SEEDS
            ]
            for piece, edits in PIECES.items()
        }
        found = {}
        for piece, runs in jobs.items():
            found[piece] = losses.summary([one.result() for one in runs])
            print(f"+ {piece}", *found[piece].values(), flush=True)
    RESULTS.write_text(json.dumps({"machine": losses.machine()} | found, indent=1) + "\n")


if __name__ == "__main__":
    main()
