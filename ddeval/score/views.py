"""Views: test-time augmentation, several looks at one photograph whose logits are averaged.

`hflip` looks at the image and its mirror image. `multicrop` looks at five squares of the model's size, the
four corners and the middle (as Krizhevsky et al. 2012), cut from a square that is a little larger: of `edge`
where the preprocessing resizes to more than it cuts, and then the middle is what is seen without
`multicrop`; else of 8/7 of the model's size (512 for 448). The order is fixed and nothing is drawn.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal, get_args

from torch import Tensor

from ddeval.data.preprocessing import Preprocessing

Tta = Literal["none", "hflip", "multicrop"]
WAYS: tuple[Tta, ...] = get_args(Tta)
ROOM = (8, 7)
"""Side of the square that crops are cut from, to that of a crop: 256 to 224, as is usual for ImageNet."""


def feed_preprocessing(p: Preprocessing, tta: Tta) -> Preprocessing:
    """What the model has to be fed with, so that every view can be cut from it.

    Examples
    --------
    >>> feed_preprocessing(Preprocessing(448), "multicrop").size
    512
    >>> feed_preprocessing(Preprocessing(224, resize="shortest_edge", edge=256), "multicrop").size
    256
    """
    if tta != "multicrop":
        return p
    side = p.edge if p.edge > p.size else -(-p.size * ROOM[0] // ROOM[1])
    return replace(p, size=side, edge=side)


def views(pixels: Tensor, tta: Tta, *, size: int) -> Iterator[Tensor]:
    """Each view (B, 3, S, S) of pixels that were prepared by `feed_preprocessing`; S is `size`."""
    if tta == "multicrop":
        room = pixels.shape[-1] - size
        corners = [(top, left) for top in (0, room) for left in (0, room)]
        for top, left in [*corners, (room // 2, room // 2)]:
            yield pixels[..., top : top + size, left : left + size].contiguous()
        return
    yield pixels
    if tta == "hflip":
        yield pixels.flip(-1)
