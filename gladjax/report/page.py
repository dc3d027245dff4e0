"""A page of words, tables and pictures, all in one file.

Every word that comes from data is escaped. A policy inside the page forbids it to load
anything, so that a name cannot make a browser ask the network.

Notation: none.

Differs from the reference in: there is none.

Reference: HTML Living Standard; Content Security Policy Level 3.
"""

import base64
import html
import os
from collections.abc import Iterable, Sequence

from gladjax import files, outputs, plots
from gladjax.plots import Picture

StrPath = str | os.PathLike[str]

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 1180px;
  padding: 0 1em; color: #222; background: #fff; }
h1 { font-size: 1.5em; } h2 { font-size: 1.15em; margin-top: 2em; }
table { border-collapse: collapse; margin: .5em 0; }
td, th { padding: .2em .8em .2em 0; text-align: left; vertical-align: top; }
td + td, th + th { font-variant-numeric: tabular-nums; }
.row { display: flex; flex-wrap: wrap; gap: 14px; }
figure { margin: 0; max-width: 100%; } img { max-width: 100%; display: block; }
figcaption { font-size: .85em; color: #555; overflow-wrap: anywhere; max-width: 36em; }
svg text { font: 11px system-ui, sans-serif; fill: #333; }
svg { max-width: 100%; height: auto; }
"""


def document(title: str, sections: Iterable[tuple[str, str]]) -> str:
    """Returns a page.

    Args:
      title: Its title, plain text.
      sections: Heading, plain text, and body, HTML, of each section.
    """
    name = html.escape(title)
    body = "\n".join(
        f"<h2>{html.escape(heading)}</h2>\n{part}" for heading, part in sections
    )
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f"{outputs.PAGE.mark.decode()}\n"
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<link rel="icon" href="data:,">\n<title>{name}</title>\n'
        f"<style>{STYLE}</style></head>\n<body><h1>{name}</h1>\n{body}\n</body></html>\n"
    )


def table(rows: Sequence[Sequence[object]], *, head: bool = False) -> str:
    """Returns a table.

    Args:
      rows: Cells as anything that can be printed.
      head: Whether the first row is a heading.
    """
    lines = []
    for i, row in enumerate(rows):
        tag = "th" if head and i == 0 else "td"
        cells = (f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in row)
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return f"<table>{''.join(lines)}</table>"


def figure(picture: Picture, caption: str, *, width: int | None = None) -> str:
    """Returns a picture inside of the page.

    Args:
      picture: The picture.
      caption: Plain text below it.
      width: Width on the page; the picture's own by default.
    """
    data = base64.b64encode(plots.png(picture)).decode()
    size = f' width="{width}"' if width else ""
    words = html.escape(caption)
    return (
        f'<figure><img src="data:image/png;base64,{data}" alt="{words}"{size}>'
        f"<figcaption>{words}</figcaption></figure>"
    )


def row(parts: Iterable[str]) -> str:
    """Returns parts beside each other, as far as there is room."""
    return f'<div class="row">{"".join(parts)}</div>'


def write(path: StrPath, text: str) -> None:
    """Writes a page, whole or not at all.

    Args:
      path: The file.
      text: The page.
    """
    with files.atomic(path, mode="w") as file:
        file.write(text)
