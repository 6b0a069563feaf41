"""Pictures of what a question is about: blocks drawn to scale, as SVG with a text for those who
cannot see it.
"""

from __future__ import annotations

import html

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9")  # told apart by everyone
LONGEST, SHORTEST, GAP, TOP = 96, 12, 14, 22  # pixels


def svg(parts, alt: str) -> str:
    """Rectangles and signs in a row, as the text of an SVG file.

    Parameters
    ----------
    parts : sequence
        A string is a sign or word between blocks; (label, rows, columns) is a block, drawn to the
        scale of all others, its size written below.
    alt : str
        What is to be seen, in words.
    """
    blocks = [part for part in parts if not isinstance(part, str)]
    scale = LONGEST / max(max(rows, columns) for _, rows, columns in blocks)
    drawn, x, colours = [], GAP, iter(COLOURS * len(blocks))
    for part in parts:
        if isinstance(part, str):
            width = 9 * len(part)
            drawn.append(_text(x + width / 2, TOP + LONGEST / 2, part, 16))
        else:
            label, rows, columns = part
            wide, tall = (max(SHORTEST, scale * size) for size in (columns, rows))
            width = max(wide, 8 * len(label), 40)
            left, top = x + (width - wide) / 2, TOP + (LONGEST - tall) / 2
            drawn.append(
                f'<rect x="{left:.0f}" y="{top:.0f}" width="{wide:.0f}" height="{tall:.0f}" '
                f'fill="{next(colours)}" fill-opacity="0.55" stroke="#333"/>'
            )
            drawn.append(_text(x + width / 2, top - 6, label, 13))
            drawn.append(_text(x + width / 2, top + tall + 14, f"{rows}×{columns}", 11))
        x += width + GAP
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{x:.0f}" height="{TOP + LONGEST + 24}" '
        f'role="img" aria-label="{html.escape(alt)}"><title>{html.escape(alt)}</title>'
        f'<rect width="100%" height="100%" fill="white"/>{"".join(drawn)}</svg>'
    )


def _text(x: float, y: float, text: str, size: int) -> str:
    style = f'font-size="{size}" font-family="sans-serif" text-anchor="middle"'
    return f'<text x="{x:.0f}" y="{y:.0f}" {style}>{html.escape(text)}</text>'


class Picture:
    """What a cell shows: `svg` of its arguments."""

    def __init__(self, *parts, alt: str):
        self._text, self._alt = svg(parts, alt), alt

    def __repr__(self):
        return self._alt

    def _repr_svg_(self) -> str:
        return self._text
