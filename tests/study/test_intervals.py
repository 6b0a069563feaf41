"""How sure accuracies are said to be."""

import pytest
from scipy.stats import binomtest

from cpnb.study.intervals import sureness, wilson


@pytest.mark.parametrize(
    ("right", "images"), [(0, 10), (1, 10), (10, 10), (913, 1000), (8774, 10000)]
)
def test_wilson_is_the_one_of_scipy(right, images):
    low, high = wilson(right / images, images)
    theirs = binomtest(right, images).proportion_ci(0.95, "wilson")
    assert low == pytest.approx(theirs.low, abs=1e-12)
    assert high == pytest.approx(theirs.high, abs=1e-12)
    assert 0 <= low < high <= 1  # no rounding beyond what a share can be


def test_a_caption_counts_all_accuracies_that_it_is_asked_of():
    runs = [{"before": 0.5, "test_size": 100}, {"after": 0.9, "test_size": 100}]
    assert sureness(runs, "before", "after") == "95% intervals up to ±9.6 points"
    assert sureness(runs, "after") == "95% intervals up to ±6.0 points"
    with pytest.raises(KeyError, match="none of 2 runs has 'later'"):
        sureness(runs, "after", "later")
