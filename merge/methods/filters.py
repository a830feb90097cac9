"""Methods on whole tensors that look at an element's neighbours: filters, and angles along the last axis."""

from __future__ import annotations

from .declaring import whole
from .elementwise import moved
from .elsewhere import Supermerger
from .linear import first_alone
from .numpy_later import np


@whole(
    working=24,
    result="first",
    base="c",
    becomes=first_alone,
    supermerger=Supermerger("Add difference", "smoothAdd"),
)
def smooth_add(a, b, c, *, alpha: float = 1.0):
    """a + alpha G(M(b - c)), M the median of 3 neighbours along every axis, G a Gaussian filter of width 1 along every axis.

    The filters take the tensor for a picture: neighbours are rows and columns that stand next to each other, at the edges
    mirrored. Of a convolution the median is that of 81 numbers, so that it takes its time.

    Source: "smoothAdd" of SuperMerger, by `scipy.ndimage.median_filter` and `gaussian_filter`.

    Use: recipes that are written so; it takes single outliers out of a difference, and most of its detail with them.
    """
    from scipy import ndimage

    change = np.subtract(b, c, dtype=np.float32)
    if change.ndim:
        change = ndimage.gaussian_filter(ndimage.median_filter(change, size=3), sigma=1)
    return moved(a, np.float32(alpha) * change)


@whole(
    working=40,
    base="a",
    supermerger=Supermerger(
        "Add difference",
        "extract",
        blocks=("alpha",),
        chosen=False,
        note="supermerger does not record extract's gamma; 0.3 was taken, as its slider stands at first",
    ),
)
def extract(a, b, c, *, alpha: float = 0.5, beta: float = 0.5, gamma: float = 0.3):
    """a + ((1 - alpha) d_b + alpha d_c) ((1 - beta) s + beta (1 - s)), s = ((cos(d_b, d_c) + 1) / 2)^gamma, d_x = x - a.

    The cosine is taken along the last axis. At beta 0 what b and c changed alike is added to a, at beta 1 what they changed
    each in its own way; alpha says whose change it is. Where b or c changed nothing the cosine is 0.

    Source: "extract" of SuperMerger.

    Use: what two fine-tunes of a have in common, or have not.
    """
    from_b, from_c = (np.atleast_1d(np.subtract(x, a, dtype=np.float32)) for x in (b, c))
    lengths = (np.sqrt(np.sum(np.square(d, dtype=np.float64), axis=-1, keepdims=True)) for d in (from_b, from_c))
    inner = np.sum(np.multiply(from_b, from_c, dtype=np.float64), axis=-1, keepdims=True)
    size = np.prod(list(lengths), axis=0)
    cosine = np.clip(np.divide(inner, size, out=np.zeros_like(inner), where=size > 0), -1, 1)
    alike = ((cosine + 1) / 2) ** gamma
    share = ((1 - beta) * alike + beta * (1 - alike)).astype(np.float32)
    change = np.float32(1 - alpha) * from_b + np.float32(alpha) * from_c
    return moved(a, (change * share).reshape(a.shape))
