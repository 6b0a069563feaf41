"""The static pages: links lead somewhere, nothing is fetched, a phone shows them whole."""

import importlib.util
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PHONE = 375  # CSS pixels
OWN = {"link", "script", "img", "iframe", "source"}  # what a browser fetches by itself


@pytest.fixture(scope="module")
def build():
    spec = importlib.util.spec_from_file_location("site_build", ROOT / "site" / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pages(build, tmp_path_factory):
    return build.build(tmp_path_factory.mktemp("site") / "public")


class Page(HTMLParser):
    def __init__(self, path):
        super().__init__()
        self.links, self.fetched, self.names, self.pictures = [], [], set(), []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.names |= {given[key] for key in ("id", "name") if given.get(key)}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag in OWN:
            self.fetched += [given[key] for key in ("href", "src") if key in given]
        if tag == "img":
            self.pictures.append(given)


def test_there_is_a_page_for_each_notebook_and_the_public_names(pages):
    names = {path.name for path in pages}
    notebooks = {f"{path.stem}.html" for path in (ROOT / "notebooks").glob("[0-9]*.ipynb")}
    assert len(notebooks) == 11 and notebooks | {"index.html", "api.html"} <= names


def test_every_link_leads_to_a_page_and_a_place_in_it(pages):
    known = {path.name: Page(path) for path in pages}
    broken = []
    for name, page in known.items():
        for link in page.links:
            if re.match(r"https?:|mailto:", link):
                continue
            file, _, anchor = link.partition("#")
            there = known.get(file or name)
            if there is None or (anchor and anchor not in there.names):
                broken.append(f"{name}: {link}")
    assert not broken


def test_nothing_is_fetched_and_every_picture_says_what_it_shows(pages):
    for path in pages:
        page = Page(path)
        outside = [x for x in page.fetched if re.match(r"(https?:)?//", x)]
        assert not outside, path.name
        missing = [x for x in page.fetched if ":" not in x and not (path.parent / x).is_file()]
        assert not missing, path.name
        told = [picture.get("alt") or "" for picture in page.pictures]
        assert all(told) and not any("No description" in text for text in told), path.name


def test_formulas_are_set_and_code_is_left_alone(build):
    told = build.with_mathml(r"With $\hat W$ and `a$b$c`, and $5 or $6.")
    assert told.count("<math") == 1 and "`a$b$c`" in told and "$5 or $6" in told
    assert "$" not in build.with_mathml("$$x_1 \\approx 2$$")


def test_a_link_to_what_has_no_page_becomes_text(build):
    body = '<a href="03.ipynb">three</a> <a href="x.py">x</a> <a href="#here">here</a>'
    told = build.linked(body, "notebooks/01.ipynb", {"notebooks/03.ipynb": "03.html"})
    assert told == '<a href="03.html">three</a> x <a href="#here">here</a>'


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_no_page_is_wider_than_a_phone(pages, tmp_path):
    frames = "".join(
        f'<iframe width={PHONE} height=700 src="{p.as_uri()}"></iframe>' for p in pages
    )
    measure = (
        "onload = () => { document.title = [...document.querySelectorAll('iframe')].map(f =>"
        " f.src.split('/').pop() + '=' + f.contentDocument.documentElement.scrollWidth).join(' ') }"
    )
    whole = tmp_path / "all.html"
    whole.write_text(f"<body>{frames}<script>{measure}</script></body>", encoding="utf-8")
    run = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files",
         "--virtual-time-budget=20000", "--dump-dom", whole.as_uri()],
        capture_output=True, text=True, timeout=180, check=True,
    )  # fmt: skip
    widths = dict(re.findall(r"([\w.]+)=(\d+)", re.search(r"<title>(.*)</title>", run.stdout)[1]))
    assert set(widths) == {path.name for path in pages}
    assert {name: int(width) for name, width in widths.items() if int(width) > PHONE} == {}
