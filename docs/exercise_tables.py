"""What the README says of the exercises and of one's own text, from docs/exercises.json."""

import textwrap

NAMES = {"kjv": "King James Bible", "input": "Tiny Shakespeare", "sample": "`data/sample.txt`"}
NAMES["the default"] = "Python's manual"


def paragraph(text: str) -> str:
    """The text in lines as long as those of the README."""
    return textwrap.fill(" ".join(text.split()), 100, break_long_words=False)


def own_text(found: dict) -> str:
    """How much text is enough, and what over-fitting looks like, in Markdown."""
    said = {
        "whole": "`data/sample.txt`",
        "dropout": "the same, `--dropout 0.2`",
        "third": "its first third",
        "tenth": "its first tenth",
        "tenth, dropout": "the same tenth, `--dropout 0.2`",
    }
    rows = ["| text | characters | lowest val loss | after | at the end: train, val | steps |"]
    rows.append("| --- " * 6 + "|")
    best = {}
    for name, title in said.items():
        curve = found[name]["curve"]
        best[name] = step, train, val = min(curve, key=lambda point: point[2])
        end, last_train, last_val = curve[-1]
        losses = f"{last_train:.2f}, {last_val:.2f}"
        cells = title, f"{found[name]['characters']:,}", f"{val:.2f}", f"step {step}", losses, end
        rows.append("| " + " | ".join(map(str, cells)) + " |")
    step, train, val = best["tenth"]
    end, last_train, last_val = found["tenth"]["curve"][-1]
    few, more = found["tenth"]["characters"], found["third"]
    enough = f"""With {few:,} characters a model of this size learns by heart what it is given; with
        {more["characters"]:,} its val loss still falls after {more["curve"][-1][0]:,} steps."""
    text = f"""**Over-fitting** is a train loss that goes on falling while the val loss rises: the
        model learns the text by heart. With a tenth of the sample the train loss falls from
        {train:.2f} at step {step} to {last_train:.2f} at step {end}, and the val loss rises from
        {val:.2f} to {last_val:.2f}. What helps is to stop at the step with the lowest val loss, as
        `--max-iters {step}` does here, since step 9 keeps its last model and not its best; or
        more text. With `--dropout 0.2` the lowest val loss of the tenth is
        {best["tenth, dropout"][2]:.2f}, after {best["tenth, dropout"][0]} steps. On the whole
        sample, which so small a model does not learn by heart in
        {found["whole"]["curve"][-1][0]:,} steps, the same dropout only slows it down:
        {best["dropout"][2]:.2f} instead of {best["whole"][2]:.2f}. Losses of different texts do not
        compare: some are easier to guess."""
    return "\n".join([*rows, "", paragraph(enough), "", paragraph(text), ""])


def fine_tuning(found: dict) -> str:
    """What exercise 3 came to, in Markdown."""
    head = ["texts", "seeds", "small text alone", "alone, 3,000 steps", "fine-tuned"]
    head += ["change from alone", "change from 3,000 steps"]
    rows = ["| " + " | ".join(head) + " |", "| --- " * len(head) + "|"]
    verdicts = []
    for key, entry in found.items():
        large, small = (NAMES.get(name, name) for name in key.split(" to "))
        result, seeds = entry["summary"], len(entry["runs"])
        cells = [f"{large}, then {small}", str(seeds)]
        cells += [f"{result[way]['lowest']:.3f}" for way in ("alone", "longer", "tuning")]
        for gain in ("gain", "gain_longer"):
            low, high = (
                f"{0 - value:+.3f}" for value in result[gain.replace("gain", "gains")][::-1]
            )
            spread = f" ({low} to {high})" if seeds > 1 else ""
            cells.append(f"{0 - result[gain]:+.3f}{spread}")
        rows.append("| " + " | ".join(cells) + " |")
        low, high = result["gains_longer"]
        better = "better" if low > 0 else "worse" if high < 0 else "neither better nor worse"
        if seeds > 1:
            verdicts.append(f"{better} for {small}")
    text = f"""A change below 0 is a lower loss after pretraining, in brackets the lowest and the
        highest of the seeds; where these differ in sign, it is the seed that decides. Against as
        many steps on the small text alone, pretraining is {", ".join(verdicts)}."""
    return "\n".join([*rows, "", paragraph(text), ""])
