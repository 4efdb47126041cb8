"""Pictures of tickets: masks of the first layer, weights that survived."""

import math

from keras_lottery.report import svg
from keras_lottery.report.figures import arm_styles, legend
from keras_lottery.report.wording import percent, whole


def picture(mask):
    """A first layer's live connections as an image.

    Args:
        mask: boolean array: of a dense layer, (inputs, units); of a
            convolution, (height, width, channels, filters).

    Returns:
        A 2D array of counts: for each input pixel the live connections to
        the units; of a convolution its filters as tiles, for each place of
        the filter the live connections to the channels, NaN between tiles.
        `None` if the inputs are no square image in grey or colour.
    """
    import numpy as np

    if mask.ndim == 4:
        return _tiles(mask.sum(2).transpose(2, 0, 1))
    if mask.ndim != 2:
        return None
    counts = mask.sum(1)
    for channels in (1, 3):
        side = math.isqrt(len(counts) // channels)
        if side > 1 and side * side * channels == len(counts):
            image = counts.reshape(side, side, channels)
            return image.sum(2).astype(np.float64)
    return None


def first_layer(masks, densities):
    """The first layer's masks at a few levels; darker is more connections.

    Args:
        masks: dict, level -> mask.
        densities: dict, level -> density of the whole network.

    Returns:
        A `matplotlib.figure.Figure`, or `None` if the layer is no image's.
    """
    import numpy as np

    images = {level: picture(mask) for level, mask in masks.items()}
    if not images or any(image is None for image in images.values()):
        return None
    columns = min(3, len(images))
    rows = -(-len(images) // columns)
    height, width = next(iter(images.values())).shape
    tall = min(2.0, max(0.6, height / width))
    size = (4.8, rows * (4.8 / columns * tall + 0.3))
    with svg.canvas(*size) as figure:
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes in grid[len(images) :]:
            axes.set_axis_off()
        for axes, (level, image) in zip(grid, images.items()):
            most = np.nanmax(image)
            # One colour, more or less of it: right on any ground.
            share = np.nan_to_num(image / max(most, 1))
            axes.imshow(_tint(share), interpolation="none")
            axes.set_title(
                f"{percent(densities[level])}: up to {whole(most)}",
                fontsize=9,
            )
            axes.set_xticks([])
            axes.set_yticks([])
            axes.grid(False)
            axes.spines[:].set_visible(True)
            axes.spines[:].set_color(svg.GRID)
    return figure


def weights(survivors, layer):
    """Histograms of one layer's trained weights at a few levels.

    Args:
        survivors: dict, label of a line -> dict, layer -> array.
        layer: str.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    import numpy as np

    arrays = {name: found[layer] for name, found in survivors.items()}
    widest = max(
        np.quantile(np.abs(array), 0.999) if array.size else 0.0
        for array in arrays.values()
    )
    # Rice's rule for the fewest: few weights in many bins are but noise.
    fewest = min(array.size for array in arrays.values())
    bins = round(np.clip(2 * fewest ** (1 / 3), 20, 60))
    edges = np.linspace(-1, 1, bins + 1) * (float(widest) or 1.0)
    with svg.canvas(height=3.1) as figure:
        axes = figure.subplots()
        for name, style in arm_styles(arrays).items():
            if not arrays[name].size:
                continue
            counts, _ = np.histogram(arrays[name], edges)
            axes.stairs(
                100 * counts / arrays[name].size,
                edges,
                label=name,
                color=style["color"],
                linestyle=style["linestyle"],
                linewidth=1.4,
            )
        axes.set_xlabel(f"trained weight, layer {layer}")
        axes.set_ylabel("share of survivors (%)")
        axes.set_ylim(bottom=0)
        legend(figure, axes)
    return figure


def _tint(share):
    """RGBA of a share in [0, 1]: a blue, transparent where there is none."""
    import numpy as np

    image = np.empty((*share.shape, 4))
    image[..., :3] = (0x2B / 255, 0x86 / 255, 0xD9 / 255)
    image[..., 3] = share
    return image


def _tiles(filters):
    """Filters side by side, NaN between them."""
    import numpy as np

    count, height, width = filters.shape
    across = math.ceil(math.sqrt(count))
    down = -(-count // across)
    image = np.full((down * (height + 1) - 1, across * (width + 1) - 1), np.nan)
    for i, one in enumerate(filters):
        y, x = i // across * (height + 1), i % across * (width + 1)
        image[y : y + height, x : x + width] = one
    return image
