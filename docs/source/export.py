"""Packs the models of steps 1 to 7 for the page, where they run.

    python docs/source/export.py

Takes the models that measure/losses.py has trained with seed 1337, in runs/measured/. Their weights
go to docs/source/weights.json, from where build.py puts them into the page. Step 7 has too many for
that: its weights become docs/07_full_gpt.js, which the page loads on request.
"""

import argparse
import base64
import importlib
import json
import re
import sys
import tomllib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

SOURCE = Path(__file__).resolve().parent
ROOT = SOURCE.parent.parent
sys.path.insert(0, str(ROOT))
from common.data import TINY_SHAKESPEARE, CharTokenizer, load_corpus  # noqa: E402

TABLE = tomllib.loads((SOURCE / "steps.toml").read_text(encoding="utf-8"))
STEPS = [name for name, row in TABLE.items() if row["kind"] == "step"]
MODELS = ROOT / "runs" / "measured"
WEIGHTS = SOURCE / "weights.json"
BESIDE = "07_full_gpt"  # its weights are a file beside the page, loaded on request
SEED = 1337
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
]


def readable(text: str, tokenizer: CharTokenizer) -> list[int]:
    """What a model reads of a text: the characters it knows, or a line break where there is none.

    A line break is what the scripts go on from without a prompt.
    """
    known = "".join(char for char in text if char in tokenizer.stoi)
    return tokenizer.encode(known or tokenizer.chars[0])


def pack(model: nn.Module) -> dict:
    """The weights in 16 bits each: integers, and for each row what they are multiplied by.

    In as many bits float16 keeps 11 digits of a weight, and these integers up to 15: through the
    six layers of step 7 the rounding adds up. All of it in base64, little-endian.
    """
    weights = {name: p.detach() for name, p in model.named_parameters()}  # without the masks
    rows = [row for p in weights.values() for row in p.reshape(-1, p.shape[-1]).numpy()]
    scales = np.array([np.abs(row).max() / 32767 for row in rows]).astype("<f4")
    if not np.isfinite(scales).all():
        raise ValueError("a weight is not a finite number")
    pairs = zip(rows, np.maximum(scales, np.finfo("<f4").tiny), strict=True)
    flat = np.concatenate([np.round(row / scale) for row, scale in pairs]).astype("<i2")
    return {
        "shapes": {name: list(p.shape) for name, p in weights.items()},
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
def proof(model: nn.Module, tokenizer: CharTokenizer, block_size: int) -> list[list[float]]:
    """The logits (V,) after each text, of the weights before they are rounded."""
    model.eval()
    logits = []
    for text in PROOF:
        idx = torch.tensor([readable(text, tokenizer)[-block_size:]])  # (1, T)
        logits.append([round(value, 4) for value in model(idx)[0][0, -1].tolist()])
    return logits


def export(name: str, tokenizer: CharTokenizer, val_loss: float) -> dict:
    """What the page needs of a trained model, and what it was made from."""
    step = importlib.import_module(name)
    flags = ["--size", "laptop"] if name == BESIDE else []
    config = step.parse_args(["--device", "cpu", *flags])
    model = step.LanguageModel(config, tokenizer.vocab_size)
    model.load_state_dict(torch.load(MODELS / f"{name}.pt", map_location="cpu"))
    words = " ".join(["python", TABLE[name]["file"], "--seed", str(SEED), *flags])
    shape = ("block_size", "n_embd", "n_head", "n_layer")
    return {
        "made_from": f"{words}, torch {torch.__version__.split('+')[0]}, val loss {val_loss:.4f}",
        "config": {key: getattr(config, key) for key in shape if hasattr(config, key)},
        "proof": proof(model, tokenizer, config.block_size),
        **pack(model),
    }


def script(name: str, entry: dict) -> str:
    """Weights as a script that puts them where the page's models look for them."""
    text = json.dumps({key: value for key, value in entry.items() if key != "proof"})
    return (
        f"// {entry['made_from']}; written by docs/source/export.py\nWEIGHTS[{name!r}] = {text};\n"
    )


def from_script(text: str) -> dict:
    """What script wrote."""
    return json.loads(re.search(r"= (\{.*\});\n", text)[1])


def main() -> None:
    """Pack the models, with one window of the text for the page."""
    about, details = __doc__.split("\n", 1)
    argparse.ArgumentParser(
        description=about, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    corpus = load_corpus(TINY_SHAKESPEARE, torch.device("cpu"), SEED)
    losses = json.loads((ROOT / "measure" / "results" / "losses.json").read_text(encoding="utf-8"))
    steps = {}
    for name in STEPS:
        (run,) = (run for run in losses["steps"][name]["runs"] if run["seed"] == SEED)
        steps[name] = export(name, corpus.tokenizer, run["val_loss"])
    beside = SOURCE.parent / f"{BESIDE}.js"
    beside.write_text(script(BESIDE, steps[BESIDE]), encoding="utf-8", newline="\n")
    steps[BESIDE] = {"proof": steps[BESIDE]["proof"]}
    window = [tokens[0].tolist() for tokens in corpus.batch("train", 1, 8)]  # as common.data has it
    kept = {"chars": "".join(corpus.tokenizer.chars), "window": window, "steps": steps}
    text = json.dumps(kept, indent=1, ensure_ascii=False)
    text = re.sub(r"\[[\s\d.,-]+\]", lambda found: " ".join(found[0].split()), text)
    WEIGHTS.write_text(text + "\n", encoding="utf-8", newline="\n")
    print(f"wrote {WEIGHTS} and {beside}")


if __name__ == "__main__":
    main()
