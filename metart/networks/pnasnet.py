"""PNASNet-5, the networks of a quicker search: one kind of cell, which reduces by a stride of 2.

Liu and others, Progressive Neural Architecture Search, 2017 (https://arxiv.org/abs/1712.00559).
"""

import functools

from metart.networks.nasnet import Architecture, Cell, build

CELL = Cell(
    (
        (("separable_5x5", 1), ("max_pool", 1)),
        (("separable_7x7", 0), ("max_pool", 0)),
        (("separable_5x5", 0), ("separable_3x3", 0)),
        (("separable_3x3", 4), ("max_pool", 0)),
        (("separable_3x3", 1), ("none", 0)),
    ),
    first_output=2,
)

pnasnet_mobile = functools.partial(
    build, architecture=Architecture(32, 54, 9, keep_path_prob=1.0, normal=CELL, reduction=None)
)
pnasnet_large = functools.partial(
    build, architecture=Architecture(96, 216, 12, keep_path_prob=0.6, normal=CELL, reduction=None)
)
