"""Previewed rows as one self-contained page.

Owns the page's structure and the few rules of style beyond those of every page of Limner. No script, no connection (a
content security policy says so too); all text is escaped; light and dark follow the reader's setting.

Data flow: StagePreview (rows of `preview.row_views`) -> to_page -> text, to be written as UTF-8
"""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby

from limner.data.preview import DocumentView, RowView, SpanView, TokenView
from limner.document.html import POLICY
from limner.document.style import STYLE

MAP_WIDTH = 1000.0
"""Width of a row's map in units of its drawing."""

OWN_STYLE = """\
main { max-width: 72rem; padding-inline: clamp(1rem, 4vw, 3.5rem); }
header p { margin: .9rem 0 0; color: var(--faint); font-size: .95rem; }
.legend, .facts, .row > h3, .document > h4 { display: flex; flex-wrap: wrap; gap: .3rem 1.1rem; align-items: baseline; }
.legend { justify-content: center; margin-top: 1rem; font-size: .875rem; color: var(--faint); }
.row { margin-top: 2rem; padding-top: 1.25rem; border-top: 1px solid var(--rule); break-inside: avoid-page; }
h3, h4 { margin: 0; font-weight: 500; }
h3 { font-size: 1.2rem; }
h4 { font-size: .95rem; margin: 1.25rem 0 .35rem; }
.facts { color: var(--faint); font-size: .875rem; font-style: italic; }
.maps { display: grid; grid-template-columns: 5.5rem 1fr; gap: 1.1rem; align-items: end; margin-top: .6rem; }
.maps svg { display: block; width: 100%; }
.mask { border: 1px solid var(--rule); background: var(--tile); }
.key { color: var(--faint); font: .8rem ui-monospace, monospace; }
.source { padding: 0 .5em; border-radius: 1em; color: #fff; font-size: .8rem;
  background: hsl(var(--hue) 38% 42%); }
.tokens { font: .84rem/1.75 ui-monospace, "DejaVu Sans Mono", monospace; white-space: pre-wrap;
  overflow-wrap: anywhere; font-variant-numeric: lining-nums; }
.tokens i { font-style: normal; border-right: 1px solid var(--rule); color: var(--faint); }
.tokens i.target { color: var(--ink); background: #b8923f33; border-bottom: 2px solid var(--gold);
  border-right-color: var(--gold); }
.tokens i.added, .tokens i.markup { border-radius: 3px; padding: 0 .25em; font-size: .78rem; background: var(--rule); }
.tokens i.added { color: var(--rubric); }
.tokens i.added.target, .tokens i.markup.target { background: #b8923f55; }
.span { display: inline-grid; grid-template-columns: auto auto; gap: .6rem; align-items: center; white-space: normal;
  vertical-align: middle; margin: .25rem .3rem; padding: .4rem .6rem .4rem .4rem; border: 1px solid var(--rule);
  border-left: 3px solid var(--faint); border-radius: 3px; background: var(--paper); font: .8rem/1.35 var(--text); }
.span.out { border-left-color: var(--rubric); }
.span img { width: 5.5rem; height: auto; background: var(--tile); image-rendering: auto; }
.span b { font-weight: 500; font-size: .95rem; }
.span small { display: block; color: var(--faint); font-size: .78rem; }
.end { color: var(--gold); }
"""


@dataclass(frozen=True)
class StagePreview:
    """Rows of a stage, with what else is to be said about it, a line each."""

    name: str
    rows: tuple[RowView, ...]
    notes: tuple[str, ...] = ()


def to_page(stages: Sequence[StagePreview], *, title: str) -> str:
    """The whole page as text."""
    sections = "\n".join(_stage(stage) for stage in stages)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<meta name="generator" content="Limner">\n'
        f"<title>{escape(title)}</title>\n<style>\n{STYLE}{OWN_STYLE}</style>\n</head>\n<body>\n<main>\n"
        f'<header><h1 dir="auto">{escape(title)}</h1>\n{_LEGEND}</header>\n{sections}\n</main>\n</body>\n</html>\n'
    )


_LEGEND = (
    "<p>Packed rows as the model is given them. The triangles are the attention mask: a query (down) sees the keys "
    "(right) of its own document up to itself. Gold below a row's map is where the text loss is computed.</p>\n"
    '<div class="legend"><span class="tokens"><i>read</i></span><span class="tokens"><i class="target">a target</i>'
    '</span><span class="tokens"><i class="markup">markup</i></span>'
    '<span class="tokens"><i class="added">token of a modality</i></span></div>\n'
)


def _stage(stage: StagePreview) -> str:
    room, tokens = sum(row.capacity for row in stage.rows), sum(row.num_tokens for row in stage.rows)
    targets = sum(row.num_targets for row in stage.rows)
    facts = [
        _count(len(stage.rows), "row"),
        _count(sum(len(row.documents) for row in stage.rows), "document"),
        f"{tokens} of {room} tokens (pack efficiency {tokens / max(1, room):.3f})",
        _count(targets, "target"),
        *stage.notes,
    ]
    hues = _hues(stage.rows)
    rows = "\n".join(_row(row, number=number, hues=hues) for number, row in enumerate(stage.rows, start=1))
    lines = "".join(f"<span>{escape(fact)}</span>" for fact in facts)
    return f'<section>\n<h2 dir="auto">{escape(stage.name)}</h2>\n<p class="facts">{lines}</p>\n{rows}\n</section>'


def _hues(rows: Sequence[RowView]) -> dict[str, int]:
    """A colour for each source, far from those next to it."""
    names = dict.fromkeys(document.source for row in rows for document in row.documents)
    return {name: (25 + 137 * number) % 360 for number, name in enumerate(names)}


def _row(row: RowView, *, number: int, hues: dict[str, int]) -> str:
    facts = [
        f"{row.num_tokens} of {row.capacity} tokens ({row.num_tokens / max(1, row.capacity):.1%})",
        _count(len(row.documents), "document"),
        _count(row.num_targets, "target"),
        _count(sum(len(document.spans) for document in row.documents), "span"),
    ]
    documents = "\n".join(_document(document, hue=hues[document.source]) for document in row.documents)
    lines = "".join(f"<span>{fact}</span>" for fact in facts)
    return (
        f'<div class="row">\n<h3>Row {number} <span class="facts">{lines}</span></h3>\n'
        f'<div class="maps">{_mask(row, hues=hues)}{_map(row, hues=hues)}</div>\n{documents}\n</div>'
    )


def _mask(row: RowView, *, hues: dict[str, int]) -> str:
    """The attention mask: one triangle per document."""
    size = row.capacity
    shapes = "".join(
        f'<path d="M{d.column},{d.column}V{d.column + d.length}H{d.column + d.length}Z" '
        f'fill="hsl({hues[d.source]} 38% 55%)"/>'
        for d in row.documents
    )
    return f'<svg class="mask" viewBox="0 0 {size} {size}" role="img" aria-label="attention mask">{shapes}</svg>'


def _map(row: RowView, *, hues: dict[str, int]) -> str:
    """Documents and their spans from left to right as long as they are, and targets below."""
    unit = MAP_WIDTH / max(1, row.capacity)

    def bar(column: int, length: int, y: int, height: int, paint: str) -> str:
        return f'<rect x="{column * unit:.2f}" y="{y}" width="{length * unit:.2f}" height="{height}" {paint}/>'

    shapes = [bar(0, row.capacity, 0, 34, 'fill="none" stroke="var(--rule)" stroke-dasharray="4 4"')]
    for document in row.documents:
        hue = hues[document.source]
        paint = f'fill="hsl({hue} 38% 62%)" stroke="var(--paper)" stroke-width="2"'
        shapes.append(bar(document.column, document.length, 0, 34, paint))
        for span in document.spans:
            shade = "30%" if span.direction == "out" else "46%"
            shapes.append(bar(span.column, span.length, 5, 24, f'fill="hsl({hue} 40% {shade})"'))
        shapes += [bar(column, length, 38, 7, 'fill="var(--gold)"') for column, length in _targets(document)]
    return f'<svg viewBox="0 0 {MAP_WIDTH:.0f} 46" role="img" aria-label="documents of the row">{"".join(shapes)}</svg>'


def _targets(document: DocumentView) -> list[tuple[int, int]]:
    """(first column, length) of every run of targets."""
    tokens = [piece for piece in document.pieces if isinstance(piece, TokenView) and piece.is_target]
    columns = [token.column + offset for token in tokens for offset in range(len(token.ids))]
    runs = [list(run) for _, run in groupby(enumerate(columns), key=lambda pair: pair[1] - pair[0])]
    return [(run[0][1], len(run)) for run in runs]


def _document(document: DocumentView, *, hue: int) -> str:
    first, last = document.column, document.column + document.length - 1
    facts = f"{_count(document.length, 'token')}, columns {first} to {last}, {_count(document.num_targets, 'target')}"
    pieces = "".join(_span(piece) if isinstance(piece, SpanView) else _token(piece) for piece in document.pieces)
    return (
        f'<div class="document" style="--hue: {hue}">\n<h4><span class="source">{escape(document.source)}</span>'
        f'<span class="key">{escape(document.key)}</span><span class="facts">{facts}</span></h4>\n'
        f'<div class="tokens" dir="auto">{pieces}</div>\n</div>'
    )


def _token(token: TokenView) -> str:
    kinds = ["target"] if token.is_target else []
    kinds += ["markup" if token.role == "markup" else "added"] if token.role else []
    name = f' class="{" ".join(kinds)}"' if kinds else ""
    ids = " ".join(map(str, token.ids))
    about = f"id {ids}, position {token.position}, column {token.column}{', target' if token.is_target else ''}"
    text = escape(token.text).replace("\r", "&#13;").replace("\0", "\N{SYMBOL FOR NULL}")
    return f'<i{name} title="{about}">{text.replace(chr(10), "<span class=end>↵</span>" + chr(10))}</i>'


def _span(span: SpanView) -> str:
    shape = f"tensor {' x '.join(map(str, span.shape))}" if span.shape else "features of the cache"
    picture = ""
    if span.picture is not None:
        height, width = span.shape[-2:]
        url = "data:image/png;base64," + b64encode(span.picture).decode("ascii")
        verb = "read" if span.direction == "in" else "made"
        alt = f"{span.modality} that is {verb}, {escape(span.key)}"
        picture = f'<img src="{url}" alt="{escape(alt)}" width="{width}" height="{height}">'
    last = span.column + span.length - 1
    return (
        f'<span class="span {span.direction}" title="{escape(span.key)}">{picture}'
        f"<span><b>{escape(span.modality)} {span.direction}</b>"
        f"<small>{_count(span.length, 'slot')}, columns {span.column} to {last}</small>"
        f"<small>{shape}</small></span></span>"
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
