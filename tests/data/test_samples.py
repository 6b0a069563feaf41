"""Training data by epoch."""

import os

import numpy as np
import pytest
import torch

from cpnb.data.samples import training_samples


def test_each_epoch_is_new_and_the_same_again():
    samples = training_samples(rendered=64, seed=3)
    first, second = samples(1), samples(2)
    assert len(first) == 64 and first.images.shape[1:] == (1, 24, 24)
    assert torch.equal(first.images, training_samples(rendered=64, seed=3)(1).images)
    assert not torch.equal(first.images, second.images)
    assert not torch.equal(first.images, training_samples(rendered=64, seed=4)(1).images)


def test_numbers_of_numpy_are_numbers():
    samples = training_samples(rendered=np.int64(64), seed=np.int64(3))
    expected = training_samples(rendered=64, seed=3)(2)
    assert torch.equal(samples(np.int64(2)).images, expected.images)


def test_nothing_to_train_on_is_an_error():
    with pytest.raises(ValueError, match="nothing to train on: dataset='characters', rendered=0"):
        training_samples(rendered=0)


@pytest.mark.skipif("CPNB_DATA" not in os.environ, reason="needs Chars74K under CPNB_DATA")
def test_real_characters_come_on_top_jittered_differently():
    data = training_samples("chars74k", rendered=10, copies=2)(1)
    real = (len(data) - 10) // 2
    one, two = data.images[10 : 10 + real], data.images[10 + real :]
    assert torch.equal(data.labels[10 : 10 + real], data.labels[10 + real :])
    assert not torch.equal(one, two)
