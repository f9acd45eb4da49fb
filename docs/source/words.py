"""What steps.toml says, as a page shows it: boxes, shapes, moments of the video, data."""

import json
import re

from markupsafe import Markup, escape


def nested(picture: str) -> list[dict]:
    """An indented outline as boxes: their label, whether they are new, and the boxes inside."""
    root: list[dict] = []
    open_boxes = [(-1, root)]
    for line in picture.strip("\n").split("\n"):
        depth = len(line) - len(line.lstrip())
        label = line.strip()
        while open_boxes[-1][0] >= depth:
            open_boxes.pop()
        is_new = label.startswith("+ ")
        box = {"label": label.removeprefix("+ "), "new": is_new, "boxes": []}
        open_boxes[-1][1].append(box)
        open_boxes.append((depth, box["boxes"]))
    return root


def visible(text: str) -> str:
    """The text with its line breaks and spaces to be seen."""
    return text.replace("\n", "↵").replace(" ", "␣")


def shapes(text: str) -> Markup:
    """The text with each shape, as (B, T, C), set apart."""
    span = r'<span class="shape">\1</span>'
    return Markup(re.sub(r"(\([BTCVhd3/, ]*[BTCV][BTCVhd3/, ]*\))", span, str(escape(text))))


def kept_whole(page: str) -> str:
    """The page with no break inside a flag of a command, nor between a number and its %."""

    def mend(found: re.Match) -> str:
        text = found[0]
        if text.startswith("<code"):
            return re.sub(r"(?<=[\s>])-[^\s<]+", r'<span class="flag">\g<0></span>', text)
        return text if text.startswith("<") else text.replace(" %", "&nbsp;%")

    code = r"<code>[^<]*</code>"
    return re.sub(rf"<(script|style|pre|svg)\b.*?</\1>|{code}|\d %", mend, page, flags=re.S)


def seconds(moment: str) -> int:
    """Seconds of h:mm:ss."""
    hours, minutes, rest = map(int, moment.split(":"))
    return 3600 * hours + 60 * minutes + rest


def for_the_page(value: object) -> Markup:
    """The value as JSON that can stand in a script of the page."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c"))
