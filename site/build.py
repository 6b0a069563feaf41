"""The pages of this repository as a static site: notebooks, documents and the public names.

    make site        # into site/public; open site/public/index.html

Nothing is fetched when a page is read: figures are embedded, formulas are MathML. A link to a file
that has no page becomes plain text, so that none is broken.
"""

from __future__ import annotations

import html
import importlib
import inspect
import os
import posixpath
import re
import shutil
import sys
from pathlib import Path

import nbformat
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbconvert.filters import markdown2html
from pygments.formatters import HtmlFormatter

import cpnb

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = {
    "README.md": "index.html", "data/README.md": "data.html", "cpnb/runs/README.md": "runs.html",
    "CHANGELOG.md": "changelog.html", "CONTRIBUTING.md": "contributing.html",
    "notebooks/assignments/INSTRUCTOR.md": "instructor.html",
    "notebooks/assignments/STUDENT.md": "student.html",
}  # fmt: skip
MATH = re.compile(r"\$\$(.+?)\$\$|(?<![\\$\w])\$(?!\s)([^$\n]+?)(?<!\s)\$(?!\d)", re.DOTALL)
CODE = re.compile(r"(```.*?```|`[^`\n]+`)", re.DOTALL)
HREF = re.compile(r'<a\b[^>]*?href="([^"]*)"[^>]*>(.*?)</a>', re.DOTALL)
SOURCE = re.compile(r'(<img\b[^>]*?src=")([^":]+)(")')


def build(to: Path) -> list[Path]:
    """Write all pages into a folder, which is made anew; returns them."""
    shutil.rmtree(to, ignore_errors=True)
    to.mkdir(parents=True)
    notebooks = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
    places = {f"notebooks/{path.name}": f"{path.stem}.html" for path in notebooks} | DOCUMENTS
    for room in (ROOT / "cpnb").glob("*/__init__.py"):
        places[room.relative_to(ROOT).as_posix()] = f"api.html#{room.parent.name}"
    titles = {"index.html": "cpnb"}
    titles |= {f"{path.stem}.html": path.stem.replace("_", " ") for path in notebooks}
    titles["api.html"] = "public names"
    bodies = {"api.html": ("cpnb", api())}
    for path in notebooks:
        bodies[f"{path.stem}.html"] = (f"notebooks/{path.name}", of_notebook(path))
    for name, page in DOCUMENTS.items():
        bodies[page] = (name, of_markdown((ROOT / name).read_text(encoding="utf-8")))
    frame = (ROOT / "site" / "page.html").read_text(encoding="utf-8")
    for page, (source, body) in bodies.items():
        body = images(linked(body, source, places), source, to)
        menu = " ".join(f'<a href="{p}">{html.escape(t)}</a>' for p, t in titles.items())
        title = titles.get(page, source)
        text = frame.replace("{title}", html.escape(title)).replace("{menu}", menu)
        (to / page).write_text(text.replace("{body}", body), encoding="utf-8")
    (to / "style.css").write_text(styles(), encoding="utf-8")
    return sorted(to.glob("*.html"))


def styles() -> str:
    """Our own, and the colours of code in light and in dark."""
    own = (ROOT / "site" / "style.css").read_text(encoding="utf-8")
    light, dark = (
        HtmlFormatter(style=name).get_style_defs(".highlight")
        for name in ("default", "github-dark")
    )
    return f"{own}\n{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}\n"


def of_notebook(path: Path) -> str:
    """Cells and outputs; formulas in text as MathML."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = with_mathml(cell.source)
    exporter = HTMLExporter(template_name="basic", embed_images=True, exclude_input_prompt=True,
                            exclude_output_prompt=True, exclude_anchor_links=True)  # fmt: skip
    return exporter.from_notebook_node(notebook)[0]


def of_markdown(text: str) -> str:
    return markdown2html(with_mathml(text))


def with_mathml(text: str) -> str:
    """Formulas outside of code by MathML, which browsers set by themselves."""

    def formula(match):
        display, inline = match.groups()
        latex = (display or inline).replace("{aligned}", "{align*}").strip()
        made = convert(latex, display="block" if display else "inline")
        return " ".join(made.split())

    parts = CODE.split(text)
    return "".join(part if n % 2 else MATH.sub(formula, part) for n, part in enumerate(parts))


def linked(body: str, source: str, places: dict) -> str:
    """Links among the files as links among the pages; others that are no page lose their link."""

    def link(match):
        target, shown = match.groups()
        if re.match(r"[a-z]+:|#", target):
            return match[0]
        path, _, anchor = html.unescape(target).partition("#")
        found = places.get(posixpath.normpath(posixpath.join(posixpath.dirname(source), path)))
        if found is None:
            return shown
        href = found if "#" in found or not anchor else f"{found}#{anchor}"
        return match[0].replace(f'href="{target}"', f'href="{href}"')

    return HREF.sub(link, body)


def images(body: str, source: str, to: Path) -> str:
    """Pictures that a document names, copied beside its page."""

    def picture(match):
        path = (ROOT / source).parent / html.unescape(match[2])
        if not path.is_file():
            raise FileNotFoundError(f"{source} shows {match[2]}, which is not there")
        shutil.copy(path, to / path.name)
        return f"{match[1]}{path.name}{match[3]}"

    return SOURCE.sub(picture, body)


def api() -> str:
    """Every public function and class with its signature and docstring, room by room."""
    rooms: dict[str, list[str]] = {}
    for name in sorted(cpnb.__all__):
        thing = getattr(cpnb, name)
        module = getattr(thing, "__module__", "") or ""
        if module.startswith("cpnb.") and callable(thing):
            rooms.setdefault(module.split(".")[1], []).append(entry(name, thing))
    parts = ["<h1>Public names</h1>"]
    for room in sorted(rooms):
        text = inspect.getdoc(importlib.import_module(f"cpnb.{room}")) or ""
        parts.append(f'<h2 id="{room}">cpnb.{room}</h2>\n{of_markdown(text)}')
        parts += rooms[room]
    for path in sorted((ROOT / "cpnb").glob("*/__init__.py")):
        if path.parent.name not in rooms:  # a room without public names is linked to all the same
            text = inspect.getdoc(importlib.import_module(f"cpnb.{path.parent.name}")) or ""
            parts.append(f'<h2 id="{path.parent.name}">cpnb.{path.parent.name}</h2>')
            parts.append(of_markdown(text))
    return "\n".join(parts)


def entry(name: str, thing) -> str:
    try:
        signature = str(inspect.signature(thing))
    except (TypeError, ValueError):
        signature = ""
    told = html.escape(inspect.getdoc(thing) or "")
    head = html.escape(f"cpnb.{name}{signature}")
    return f'<h3 id="{name}">{name}</h3>\n<pre class="signature">{head}</pre>\n<pre>{told}</pre>'


if __name__ == "__main__":
    os.chdir(ROOT)
    made = build(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "site" / "public")
    print(f"{len(made)} pages: {made[0].parent / 'index.html'}")
