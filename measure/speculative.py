"""How fast beyond/speculative.py writes beside the lesson that it extends, in turns.

    python measure/losses.py 18_decay 19_ensemble
    python measure/speculative.py
    python measure/speculative.py --flags "--n-embd 384 --n-head 6 --block-size 256"

Takes the models of runs/measured/: the lesson on weight decay is the last lesson with one model,
and the lesson on ensembles has four. All write the same number of tokens in turns, A B A B ..., on
one thread: the lesson, which is the first row, and the script with each number of drafts. A row
gives the tokens of a pass, the milliseconds of its parts (the table drafts, the model computes, the
rest), the characters a second, and how many times as fast as the lesson a token is: the median of
the turns, in brackets the quartiles. With --flags the model has another size and random weights.
Then only the milliseconds of a pass say something, since no draft fits such a model. Figures go to
measure/results/speculative.json, with --flags to standard output alone. Needs a machine that does
nothing else.
"""

import functools
import statistics
import time
from types import ModuleType

import torch
from losses import MODELS, RESULTS, SEEDS, arguments, lesson, load, machine, write
from torch import Tensor, nn
from watch import token_corpus, turns

DRAFTS = (0, 1, 2, 3, 4, 6, 8)


def ratio(old: list[dict], new: list[dict], key: str) -> str:
    """How many times as fast the new one is: the median of the turns, and the quartiles."""
    ratios = [a[key] / b[key] for a, b in zip(old, new, strict=True)]
    low, middle, high = statistics.quantiles(ratios * 2, n=4)  # it asks for two at least
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def timed(owner: object, name: str, spent: dict[str, float]) -> None:
    """Let a function of a class or an object add its seconds to those spent."""
    function = getattr(owner, name)

    def clocked(*args: object, **kwargs: object) -> object:
        start = time.perf_counter()
        result = function(*args, **kwargs)
        spent[name] = spent.get(name, 0.0) + time.perf_counter() - start
        return result

    setattr(owner, name, clocked)


def models(script: ModuleType, old: ModuleType, name: str, flags: list[str]) -> list[nn.Module]:
    """The lesson's model and the script's with the same weights: those of a run, or random ones."""
    torch.manual_seed(SEEDS[0])
    flags = ["--device", "cpu", *flags]
    lesson_config = old.parse_args(flags)
    reference = old.LanguageModel(lesson_config, lesson_config.vocab_size)
    if name:
        weights = torch.load(MODELS / f"{name}.pt", map_location="cpu")
        if name != lesson("ensemble"):  # a single model
            weights = {f"members.0.{key}": value for key, value in weights.items()}
        reference.load_state_dict(weights)
    config = script.parse_args([*flags, "--n-draft", str(max(DRAFTS))])
    model = script.LanguageModel(config, config.vocab_size)
    # The two masks have other names, and each model makes its own.
    missing = model.load_state_dict(reference.state_dict(), strict=False).missing_keys
    assert all(key.endswith(".seen") for key in missing), missing
    return [reference, model]


def write_tokens(
    model: nn.Module, context: Tensor, tokens: int, spent: dict[str, float], *how: object
) -> dict:
    """Let a model write, and say how long it took and in which parts."""
    spent.clear()
    start = time.perf_counter()
    passes = list(model.generate(context, tokens, *how))
    seconds = time.perf_counter() - start
    ms = {name: 1000 * spent.get(name, 0.0) / len(passes) for name in ("draw", "forward")}
    ms["rest"] = 1000 * seconds / len(passes) - sum(ms.values())
    return {
        "ms": 1000 * seconds / tokens,
        "per_pass": tokens / len(passes),
        "parts": ms,
        "text": torch.cat(passes, dim=1)[0],
        "seconds": seconds,
    }


def compare(old: ModuleType, script: ModuleType, name: str, flags: list[str], args: object) -> list:
    """Rows of the table: the lesson, then the script with each number of drafts."""
    corpus = token_corpus(script.Config().vocab_size)
    reference, model = models(script, old, name, flags)
    draft = script.Draft(corpus.splits["train"].tolist(), corpus.tokenizer.vocab_size)
    context, spent = corpus.splits["val"][None, : model.block_size], {}
    timed(draft, "draw", spent)
    for one in (reference, model):
        timed(one, "forward", spent)
    contestants = {
        "lesson": functools.partial(write_tokens, reference, context, args.tokens, spent)
    }
    for k in DRAFTS:
        how = (model, context, args.tokens, spent, draft, k)
        contestants[k] = functools.partial(write_tokens, *how)
    torch.manual_seed(SEEDS[0])
    turns(contestants, 1)  # the first turn is slower
    found, rows = turns(contestants, args.rounds), []
    for k, seen in found.items():
        chars = sum(len(corpus.tokenizer.decode(one["text"])) for one in seen)
        # Texts differ in characters a token, so each row has its own.
        row = {
            "drafts": k,
            "tokens_per_pass": round(statistics.mean(one["per_pass"] for one in seen), 2),
            "chars_per_second": round(chars / sum(one["seconds"] for one in seen)),
            "times": ratio(found["lesson"], seen, "ms"),
        }
        for part in ("draw", "forward", "rest"):
            ms = statistics.median(one["parts"][part] for one in seen)
            row[part] = round(ms, 3)
        rows.append(row)
    return rows


def table(rows: list[dict]) -> str:
    """In Markdown."""
    lines = [
        "| drafts | tokens a pass | ms to draft | ms of the model | ms of the rest "
        "| characters a second | times the lesson |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        keys = ("drafts", "tokens_per_pass", "draw", "forward", "rest", "chars_per_second", "times")
        lines.append("| " + " | ".join(str(row[key]) for key in keys) + " |")
    return "\n".join(lines)


def main() -> None:
    """Let all write in turns, and print a table for each model."""
    parser = arguments(__doc__)
    parser.add_argument("--flags", default="", help="another size, with random weights")
    parser.add_argument("--rounds", type=int, default=20, help="turns of each")
    parser.add_argument("--tokens", type=int, default=200, help="written in a turn")
    args = parser.parse_args()
    torch.set_num_threads(1)
    old, script = load(lesson("ensemble")), load("speculative")
    if args.flags:
        flags = ["--n-member", "1", *args.flags.split()]
        print(table(compare(old, script, "", flags, args)))
        return
    results = {"machine": machine()}
    for name, members in ((lesson("decay"), 1), (lesson("ensemble"), 4)):
        if not (MODELS / f"{name}.pt").exists():
            print(f"{MODELS / name}.pt is not there: python measure/losses.py {name}")
            continue
        rows = compare(old, script, name, ["--n-member", str(members)], args)
        print(f"{members} model(s):\n{table(rows)}", flush=True)
        results[str(members)] = rows
    write(results, RESULTS.with_name("speculative.json"))


if __name__ == "__main__":
    main()
