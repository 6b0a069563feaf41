"""Notebooks of a cell or two, written for tests and run by a real kernel."""

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

PARAMETERS = 'rank = 4\nlr = 0.1\nmethod = "nls"\nranks = [1, 2]\nverbose = False\nlimit = None'


def write(path, *cells, parameters=PARAMETERS):
    """A notebook with a heading, a parameters cell and these cells: source, or (source, tag)."""
    body = [new_markdown_cell("# A notebook")]
    if parameters is not None:
        body.append(new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    for cell in cells:
        source, *tags = [cell] if isinstance(cell, str) else cell
        body.append(new_code_cell(source, metadata={"tags": tags} if tags else {}))
    nbformat.write(new_notebook(cells=body), path)
    return path


def printed(path):
    """All that the notebook printed."""
    cells = nbformat.read(path, as_version=4).cells
    outputs = [out for cell in cells if cell.cell_type == "code" for out in cell.outputs]
    return "".join(out.text for out in outputs if out.get("name") == "stdout")
