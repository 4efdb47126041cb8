"""Charts: masks as images."""

import numpy as np
import pytest

from keras_lottery.report.charts import (
    first_layer_masks,
    mask_image,
    weight_histograms,
)


def test_a_dense_layer_gives_counts_per_pixel():
    mask = np.zeros((9, 5), bool)
    mask[4, :3] = True
    image = mask_image(mask)
    assert image.shape == (3, 3)
    assert image[1, 1] == 3 and image.sum() == 3


def test_channels_of_a_pixel_are_counted_together():
    mask = np.ones((2 * 2 * 3, 5), bool)
    mask[0] = False  # one channel of the first pixel
    assert mask_image(mask).tolist() == [[10, 15], [15, 15]]


def test_a_convolution_gives_its_filters_as_tiles():
    mask = np.ones((3, 3, 2, 5), bool)
    mask[0, 0, 0, 1] = False
    image = mask_image(mask)
    assert image.shape == (2 * 4 - 1, 3 * 4 - 1)
    assert image[0, 0] == 2 and image[0, 4] == 1
    assert np.isnan(image[3]).all() and np.isnan(image[:, 3]).all()


@pytest.mark.parametrize("shape", [(7, 5), (1, 5), (3, 2, 4)])
def test_what_is_no_image_is_not_drawn(shape):
    mask = np.ones(shape, bool)
    assert mask_image(mask) is None
    assert first_layer_masks({0: mask}, {0: 1.0}) is None


def test_weights_that_diverged_are_left_out():
    trained = np.array([0.1, -0.2, np.nan, np.inf, 0.3])
    lost = np.full(4, np.nan)
    survivors = {"dense": {"fc": trained}, "10 %": {"fc": lost}}
    figure = weight_histograms(survivors, "fc")
    _, labels = figure.axes[0].get_legend_handles_labels()
    assert labels == ["dense"]
