"""dSprites, one energy per factor, with IGEBM (Du & Mordatch 2019, composition of concepts).

    python main.py --config=configs/dsprites_igebm.py:shape --workdir=runs/dsprites_shape
    python main.py --config=configs/dsprites_igebm.py:scale --workdir=runs/dsprites_scale

Variants: shape, scale, orientation, x, y: the factor whose values are the classes. Sums of the
trained energies (`ebm_jax.energy.sum_energies`) compose them. Five convolutions and two dense
layers, swish; K = 20, lambda = 500, no clipping. *Quirk* of the published code: chains start at
.5 + .5 N(0, 1), and the data are not dequantised.
Hardware: one GPU; this code has not run it to its end. The paper gives pictures, no figure.
"""

import ml_collections

from configs import cifar10_igebm, default

_LABELS = {"x": "x_position", "y": "y_position"}  # of the data set, where they differ
_NUM_VALUES = {"shape": 3, "scale": 6, "orientation": 40, "x": 32, "y": 32}


def get_config(variant: str = "shape") -> ml_collections.ConfigDict:
    """The network of one factor."""
    if variant not in _NUM_VALUES:
        raise ValueError(f"unknown variant {variant!r}: write one of {', '.join(_NUM_VALUES)}")
    config = cifar10_igebm.get_config()
    config.data.name = "dsprites"
    config.data.label = _LABELS.get(variant, variant)
    config.data.dequantize = False
    config.network = default.network(
        "igebm_conv",
        width=64,
        first_width=32,
        multipliers=(1, 2, 2, 2),
        gain_layer=2,
        num_classes=_NUM_VALUES[variant],
        activation="swish",
    )
    config.method.num_steps = 20
    config.method.step_size = 500.0
    config.method.max_grad = 0.0
    config.method.init_noise = "normal"
    return config
