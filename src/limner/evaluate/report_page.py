"""Outcomes as one self-contained page: the table of each benchmark, and what was right and wrong, with its pictures.

Right and wrong stand in the order in which they were asked; they are not picked.
"""

import io
from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import PIL.Image

from limner.document.html import POLICY
from limner.document.media import Image
from limner.document.style import STYLE
from limner.evaluate.benchmark import Example, Outcome
from limner.evaluate.contact_sheet import PER_SIDE
from limner.evaluate.tables import columns, flat

SIDE = 160
"""Longest side of a picture on the page, in pixels; the reply is what the page is for."""
OWN_STYLE = """
main { max-width: 62rem; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
td, th { text-align: left; padding: .3rem .6rem; }
tr + tr { border-top: 1px solid color-mix(in srgb, currentColor 20%, transparent); }
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); gap: 1rem; }
.sheet figure { margin: 0; border-left: .3rem solid #2e7d32; padding-left: .6rem; }
.sheet figure.wrong { border-color: #c62828; }
.sheet img { max-width: 100%; image-rendering: auto; }
.sheet figcaption { font-size: .8rem; white-space: pre-line; overflow-wrap: anywhere; }
"""


def to_page(outcomes: Sequence[Outcome], *, facts: Mapping[str, Any]) -> str:
    """The whole page as text, to be written as UTF-8."""
    title = f"How good is {facts.get('model', 'the model')}?"
    told = "".join(f"<tr><th>{escape(name)}</th><td>{escape(flat(value))}</td></tr>" for name, value in facts.items())
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>\n{STYLE}{OWN_STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"<header><h1>{escape(title)}</h1></header>\n"
        + "\n".join(map(_section, outcomes))
        + f"\n<section><h2>The run</h2><table>{told}</table></section>\n</main>\n</body>\n</html>\n"
    )


def _section(outcome: Outcome) -> str:
    head, rows = columns(outcome)
    table = ""
    if rows:
        cells = ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows]
        names = "".join(f"<th>{escape(name)}</th>" for name in head)
        table = f"<table><tr>{names}</tr>" + "".join(f"<tr>{row}</tr>" for row in cells) + "</table>"
    return (
        f"<section><h2>{escape(outcome.name)}</h2><p>{escape(outcome.setup)}</p>{table}"
        + _sheet("Right", [example for example in outcome.examples if example.is_right])
        + _sheet("Wrong", [example for example in outcome.examples if not example.is_right])
        + "</section>"
    )


def _sheet(title: str, examples: Sequence[Example]) -> str:
    if not examples:
        return ""
    kind = title.lower()
    figures = "".join(
        f'<figure class="{kind}">{"".join(map(_picture, example.pictures))}'
        f"<figcaption>{escape(example.caption)}</figcaption></figure>"
        for example in examples[:PER_SIDE]
    )
    return f'<h3>{title}</h3><div class="sheet">{figures}</div>'


def _picture(image: Image) -> str:
    picture = image.pil().copy()
    picture.thumbnail((SIDE, SIDE), PIL.Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return f'<img alt="" src="data:image/png;base64,{b64encode(stream.getvalue()).decode()}">'
