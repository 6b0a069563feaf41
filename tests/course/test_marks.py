"""Marks, the adapter, and messages that say what was wrong."""

import pytest
import torch

from cpnb.course.answers import Answers, close
from cpnb.course.marks import MIME, Marks, WrongAnswer, demand
from cpnb.course.pictures import Picture


def failing(points=4, grade=None):
    marks = Marks(points)
    with marks.part(1, "holds"):
        pass
    with marks.part(3, "fails"):
        demand(False, "<b>why</b>")
    return marks


def test_points_are_given_part_by_part(monkeypatch):
    monkeypatch.setenv("NBGRADER_EXECUTION", "autograde")
    shown = failing()._repr_mimebundle_()
    assert shown["text/plain"] == "1.0"  # what nbgrader reads
    assert shown[MIME]["points"] == 1 and shown[MIME]["of"] == 4
    assert "&lt;b&gt;why&lt;/b&gt;" in shown["text/html"]


def test_when_graded_the_parts_must_add_up(monkeypatch):
    monkeypatch.setenv("NBGRADER_EXECUTION", "autograde")
    with pytest.raises(ValueError, match="parts of 4 points in a question of 5"):
        failing(5).total()


def test_a_release_without_hidden_parts_validates_once_the_visible_ones_hold(monkeypatch):
    monkeypatch.delenv("NBGRADER_EXECUTION", raising=False)
    marks = Marks(5)
    with marks.part(2, "visible"):
        pass
    assert marks.total() == 5
    assert "3 more points are for tests that you do not see" in marks._table()
    assert failing(5).total() == 1


@pytest.mark.parametrize("error", [ZeroDivisionError("nought"), SystemExit(3), RecursionError()])
def test_an_exception_costs_its_part_only(error):
    def answer():
        raise error

    marks = Marks(2)
    with marks.part(1, "stops"):
        Answers({"answer": answer}).answer()
    with marks.part(1, "goes on"):
        pass
    assert [part["points"] for part in marks.parts] == [0, 1]
    assert f"your code stopped with {type(error).__name__}" in marks.parts[0]["message"]


def test_a_function_that_is_called_past_the_adapter_may_be_unanswered():
    def answer():
        raise NotImplementedError

    marks = Marks(1)
    with marks.part(1, "drawn"):
        Answers({"plot": answer}).function("plot")()
    assert marks.parts[0]["message"] == "not answered yet"


def changes(x):
    x += 1
    return x


def changes_a_net(net):
    net.weight.data.zero_()
    return net


def unanswered(x):
    raise NotImplementedError


@pytest.mark.parametrize(
    ("answer", "given", "told"),
    [
        (None, 1, "there is no function answer"),
        (unanswered, 1, "answer is not answered yet"),
        (lambda x: None, 1, "answer returns nothing"),
        (changes, torch.ones(2), "answer changes what it is given"),
        (lambda x: changes(x[0]), [torch.ones(2)], "answer changes what it is given"),
        (changes_a_net, torch.nn.Linear(2, 2), "answer changes what it is given"),
    ],
)
def test_the_adapter_says_what_is_missing(answer, given, told):
    with pytest.raises(WrongAnswer, match=told):
        Answers({"answer": answer}).answer(given)


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (torch.zeros(3, 2), r"has shape \(3, 2\); it should be \(2, 3\)"),
        ([1, 2], "it should be a tensor"),
        (torch.full((2, 3), torch.nan), "infinite or undefined"),
        (torch.ones(2, 3) * 1.1, r"off by a relative 1.0e-01; an error of at most 1e-06"),
        (torch.ones(2, 3) * -1, "the sign is wrong"),
    ],
)
def test_a_difference_is_named(found, told):
    right = torch.ones(2, 3)
    close(right, right)
    with pytest.raises(WrongAnswer, match=told):
        close(found, right, 1e-6, {"the sign is wrong": -right})


def test_numbers_are_compared_as_well():
    close(1.0000001, 1.0, 1e-6)
    with pytest.raises(WrongAnswer, match="it should be a number"):
        close("one", 1.0)


def test_a_picture_has_words():
    picture = Picture(("A", 4, 2), "<", ("B", 100, 1), alt='two "blocks"')
    assert repr(picture) == 'two "blocks"'
    drawn = picture._repr_svg_()
    assert 'aria-label="two &quot;blocks&quot;"' in drawn and "&lt;" in drawn
    assert drawn.count("<rect") == 3 and "100×1" in drawn
