"""Trains steps as their scripts do, and writes what the page's own models need.

    python docs/export.py
    python docs/export.py 07_full_gpt

docs/measure.py does this for each step that it measures and that trains in its own way. It runs a
step's own main with the seed 1337 and looks on from outside: at each evaluation the model writes a
sample, which goes with the losses to docs/results.json, and the weights that it ends with go to
docs/weights.json, or to a script of their own beside the page where they are many. A sample uses
random numbers of its own, so that the losses are those of a run without it. Takes nineteen minutes
of one core.
"""

import argparse
import base64
import contextlib
import importlib
import io
import json
import re
import sys
import tempfile
import tomllib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
sys.path[:0] = [str(ROOT)]
from common.data import TINY_SHAKESPEARE, Vocabulary, load_corpus  # noqa: E402

TABLE = tomllib.loads((DOCS / "steps.toml").read_text(encoding="utf-8"))
RESULTS = DOCS / "results.json"
WEIGHTS = DOCS / "weights.json"
SEED = 1337
SAMPLE = 200  # characters at each evaluation
IN_THE_PAGE = [name for name, row in TABLE.items() if "/" not in row["file"]][:-1]  # steps 1 to 6
BESIDE = "07_full_gpt"  # its weights are a file beside the page, loaded on request
AS_BEFORE = ("09_keep", "10_fast", "15_cache", "16_many")  # they train as the step before does
PROOF = [  # texts on which the page's models are held against the scripts'
    "",
    "T",
    "First Citizen:\n",
    "To be, or not to be: that is the question",
    "ROMEO:\nWhat light?\n\nJULIET:\nO, my lord!",
    "zzzzzzzz",
    "   the   ",
    "QUEEN MARGARET:\n\n\n\n&$3",
    "caf\u00e9 for 12 \u20ac, na\u00efve \U0001f600 friends",  # with characters that no model knows
    None,  # the whole vocabulary
]


def proof_texts(chars: list[str]) -> list[str]:
    """The ten texts, the last of which is the whole vocabulary."""
    return ["".join(chars) if text is None else text for text in PROOF]


def readable(text: str, vocabulary: Vocabulary) -> list[int]:
    """What a model reads of a text: the characters it knows, or a line break where there is none.

    A line break is what the scripts go on from without a prompt.
    """
    known = "".join(char for char in text if char in vocabulary.token_of)
    return vocabulary.encode(known or vocabulary.chars[0])


def learn(name: str, *flags: object) -> tuple[nn.Module, object, list[list]]:
    """A run of the step: its model, its config, and [step, train, val, sample] of evaluations."""
    step = importlib.import_module(TABLE[name]["file"].removesuffix(".py").replace("/", "."))
    evaluations, models = [], []
    estimate_loss, threads = step.estimate_loss, torch.get_num_threads()

    def watch(model, corpus, config, device):
        with torch.random.fork_rng():  # what is drawn here does not change the training
            torch.manual_seed(config.seed)
            start = torch.zeros(1, 1, dtype=torch.long, device=device)  # (1, 1), a line break
            tokens = [int(token) for token in model.generate(start, SAMPLE)]
        means = estimate_loss(model, corpus, config, device)  # in training mode again after it
        at = min(len(evaluations) * config.eval_interval, config.max_iters)
        losses = (round(means[split], 4) for split in ("train", "val"))
        evaluations.append([at, *losses, corpus.decode(tokens)])
        models.append(model)
        return means

    with tempfile.TemporaryDirectory() as folder:
        given = ["--seed", SEED, "--max-new-tokens", 0, *flags]
        if "checkpoint" in step.Config.__dataclass_fields__:
            given += ["--checkpoint", Path(folder) / "model.pt"]
        config = step.parse_args(list(map(str, given)))
        step.estimate_loss = watch
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                step.main(config)
        finally:
            step.estimate_loss = estimate_loss
            torch.set_num_threads(threads)
    return models[-1], config, evaluations


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """The parameters by name, without the masks."""
    return {name: p.detach().cpu() for name, p in model.named_parameters()}


def pack(model: nn.Module) -> dict:
    """The weights in 16 bits each: integers, and for each row what they are multiplied by.

    In as many bits float16 keeps 11 digits of a weight, and these integers up to 15: through the
    six layers of step 7 the rounding adds up. All of it in base64, little-endian.
    """
    rows = [row for p in weights_of(model).values() for row in p.reshape(-1, p.shape[-1]).numpy()]
    scales = np.array([np.abs(row).max() / 32767 for row in rows]).astype("<f4")
    if not np.isfinite(scales).all():
        raise ValueError("a weight is not a finite number")
    pairs = zip(rows, np.maximum(scales, np.finfo("<f4").tiny), strict=True)
    flat = np.concatenate([np.round(row / scale) for row, scale in pairs]).astype("<i2")
    return {
        "shapes": {name: list(p.shape) for name, p in weights_of(model).items()},
        "scales": base64.b64encode(scales.tobytes()).decode("ascii"),
        "int16": base64.b64encode(flat.tobytes()).decode("ascii"),
    }


def unpack(packed: dict) -> dict[str, Tensor]:
    """The rounded weights by name, in float32: the inverse of pack."""
    scales = np.frombuffer(base64.b64decode(packed["scales"]), "<f4")[:, None]
    flat = np.frombuffer(base64.b64decode(packed["int16"]), "<i2")
    weights, at, done = {}, 0, 0
    for name, shape in packed["shapes"].items():
        rows = flat[at : at + int(np.prod(shape))].reshape(-1, shape[-1])  # a vector is one row
        scaled = rows * scales[done : done + len(rows)]
        weights[name] = torch.from_numpy(scaled.reshape(shape))
        at, done = at + rows.size, done + len(rows)
    return weights


@torch.no_grad()
def proof(model: nn.Module, vocabulary: Vocabulary, block_size: int) -> list[list[float]]:
    """The logits (V,) after each of the ten texts, of the weights before they are rounded."""
    model.eval()
    logits = []
    for text in proof_texts(vocabulary.chars):
        idx = torch.tensor([readable(text, vocabulary)[-block_size:]])  # (1, T)
        logits.append([round(value, 4) for value in model.cpu()(idx)[0][0, -1].tolist()])
    return logits


def kept(name: str, model: nn.Module, config: object, chars: list[str], val_loss: float) -> dict:
    """What the page needs of a trained model, and what it was made from."""
    names = ("block_size", "n_embd", "n_head", "n_layer")
    version = torch.__version__.split("+")[0]
    made_from = f"python {TABLE[name]['file']} --seed {SEED}"
    if hasattr(config, "size"):
        made_from += " --size laptop"
    return {
        "made_from": f"{made_from}, torch {version}, val loss {val_loss:.4f}",
        "config": {key: getattr(config, key) for key in names if hasattr(config, key)},
        "proof": proof(model, Vocabulary(chars), config.block_size),
        **pack(model),
    }


def script(name: str, entry: dict) -> str:
    """Weights as a script that puts them where the page's models look for them."""
    text = json.dumps({key: value for key, value in entry.items() if key != "proof"})
    return f"// {entry['made_from']}; written by docs/export.py\nWEIGHTS[{name!r}] = {text};\n"


def from_script(text: str) -> dict:
    """What script wrote."""
    return json.loads(re.search(r"= (\{.*\});\n", text)[1])


def export(names: list[str], *flags: object) -> dict[str, dict]:
    """Train those steps, write their weights, and return what was seen of their training."""
    old = json.loads(WEIGHTS.read_text(encoding="utf-8")) if WEIGHTS.exists() else {}
    chars = load_corpus().chars
    steps, seen = old.get("steps", {}), {}
    for name in names:
        if name in AS_BEFORE:
            continue
        print(f"training {name} for the page", file=sys.stderr)
        size = ("--size", "laptop") if name == BESIDE else ()  # on a GPU, too
        model, config, evaluations = learn(name, *size, *flags)
        seen[name] = {"seed": SEED, "evaluations": evaluations}
        if name in (*IN_THE_PAGE, BESIDE):
            entry = kept(name, model, config, chars, evaluations[-1][2])
            if name == BESIDE:
                (DOCS / f"{name}.js").write_text(
                    script(name, entry), encoding="utf-8", newline="\n"
                )
                entry = {"proof": entry["proof"]}
            steps[name] = entry
    steps = {name: steps[name] for name in TABLE if name in steps}
    text = json.dumps({"chars": "".join(chars), "steps": steps}, indent=1, ensure_ascii=False)
    text = re.sub(r"\[[\s\d.,-]+\]", lambda found: " ".join(found[0].split()), text)
    WEIGHTS.write_text(text + "\n", encoding="utf-8", newline="\n")
    return seen


def main() -> None:
    """Export what the command line names, and put what was seen of it into the results."""
    about, details = __doc__.split("\n", 1)
    parser = argparse.ArgumentParser(
        description=about, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("steps", nargs="*", help="those to train again; all, where none is named")
    names = parser.parse_args().steps
    if unknown := set(names) - set(TABLE):
        parser.error(f"no step {', '.join(sorted(unknown))}; there are {', '.join(TABLE)}")
    load_corpus()  # downloads it, where it is missing
    if not TINY_SHAKESPEARE.exists():
        sys.exit(f"{TINY_SHAKESPEARE} is missing; the page's models learn Tiny Shakespeare")
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    results["learning"] = results.get("learning", {}) | export(names or list(TABLE))
    write_results(results)


def write_results(results: dict) -> None:
    """Write the results, rows of numbers on one line each."""
    text = json.dumps(results, indent=1, ensure_ascii=False)
    rows = re.sub(r"\[[\s\d.,-]+\]", lambda found: " ".join(found[0].split()), text)
    RESULTS.write_text(rows + "\n", encoding="utf-8", newline="\n")
    print(f"wrote {RESULTS}")


if __name__ == "__main__":
    main()
