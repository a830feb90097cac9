"""Methods on whole tensors that look at an element's neighbours: filters, and angles along the last axis."""

from __future__ import annotations

from .declaring import whole
from .elementwise import add_preserving_zero
from .lazy_numpy import np
from .linear import first_alone
from .other_tools import Mecha, Mergekit, Supermerger


@whole(
    working=24,
    result="first",
    base="c",
    becomes=first_alone,
    supermerger=Supermerger("Add difference", "smoothAdd"),
    chattiori="smooth_add_difference",
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
    return add_preserving_zero(a, np.float32(alpha) * change)


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
    return add_preserving_zero(a, (change * share).reshape(a.shape))


@whole(
    working=56,
    base="a",
    mergekit={
        "arcee_fusion": Mergekit(
            weighted=False,
            note="of tensors above a million numbers mergekit guesses the threshold from a random sample; here it is that of all",
        )
    },
)
def arcee_fusion(a, b):
    """b where it matters, else a: where |b - a| D is at least the median of that + 1.5 times its quartiles' distance.

    D is the Kullback-Leibler divergence of softmax(b) from softmax(a), both along the last axis: one number for each row of it.

    Source: `arcee_fusion` of mergekit.

    Use: the few changes of a fine-tune that stand out, and the base in all else.
    """
    matters = abs(np.subtract(b, a, dtype=np.float64))
    if not matters.size:
        return a
    rows, base = (np.atleast_1d(x).astype(np.float64) for x in (b, a))
    of_b, of_a = (_softmax(x) + 1e-8 for x in (rows, base))
    matters *= np.sum(of_b * np.log(of_b / of_a), axis=-1, keepdims=True).reshape((*a.shape[:-1], 1) if a.ndim else ())
    ranked = np.sort(matters, axis=None)
    first, middle, third = (ranked[int(q * (ranked.size - 1))] for q in (0.25, 0.5, 0.75))
    return np.where(matters >= middle + 1.5 * (third - first), b, a)


def _softmax(x):
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


@whole(
    working=48,
    mecha=Mecha("crossover", "a b alpha tilt", {"alpha": ("alpha", 0.5), "tilt": ("tilt", 0.0)}, blocks=False),
)
def crossover(a, b, *, alpha: float = 0.5, tilt: float = 0.0):
    """Low frequencies of a, high ones of b: the Fourier transforms of a tensor, cut at 1 - alpha of the highest frequency.

    The tensor is taken for a picture with as many axes as it has. `tilt` makes the cut a slope: 0 is a step, 1 a weighted sum
    (the same share everywhere), 2 the step the other way round, low frequencies of b and high ones of a.

    Source: `crossover` of sd-mecha.

    Use: experiments: coarse structure of one model, fine of another.
    """
    if alpha in (0, 1) or tilt == 1 or not a.ndim:
        return add_preserving_zero(a, np.float32(alpha) * (b - a)) if alpha != 1 else b
    share = _crossover_filter(a.shape, alpha, tilt)
    axes = tuple(range(a.ndim))
    waves = np.fft.rfftn(a.astype(np.float64), axes=axes)
    waves += share * np.fft.rfftn(np.subtract(b, a, dtype=np.float64), axes=axes)
    return np.fft.irfftn(waves, s=a.shape, axes=axes).astype(np.float32)


def _crossover_filter(shape, alpha: float, tilt: float):
    """The share of b in every frequency of a real transform of this shape, as sd-mecha has it."""
    sizes = (*shape[:-1], shape[-1] // 2 + 1)
    squares = 0.0
    for axis, n in enumerate(sizes):
        if axis == len(sizes) - 1 or n == 1:
            along = np.linspace(0, 1, n)
        else:  # frequencies go up to the middle, then down
            half = n // 2
            along = np.concatenate([np.linspace(0, (n - 1) // 2, n - half), np.linspace(half, 1, half)]) / half
        squares = squares + along.reshape([-1 if i == axis else 1 for i in range(len(sizes))]) ** 2
    frequency = np.sqrt(squares / len(sizes))
    tilt, backwards = tilt % 4, tilt % 4 > 2
    alpha = 1 - alpha if backwards else alpha
    if tilt < 1e-10 or tilt > 4 - 1e-10:
        share = (frequency > 1 - alpha).astype(np.float64)
    elif abs(tilt - 2) < 1e-10:
        share = (frequency < 1 - alpha).astype(np.float64)
    else:
        slope = 1 / np.tan(np.pi * tilt / 2)
        rising = tilt <= 1 or 2 < tilt <= 3
        share = frequency * slope + (alpha * slope + alpha - slope if rising else alpha - alpha * slope)
        share = np.clip(share, 0, 1)
    return 1 - share if backwards else share
