"""dSprites, one energy per factor, with IGEBM (Du & Mordatch 2019, composition of concepts).

    python main.py --config=configs/dsprites_igebm.py:shape --workdir=runs/dsprites_shape
    python main.py --config=configs/dsprites_igebm.py:size --workdir=runs/dsprites_size

Variants: shape (a class), size, position, rotation, size_and_position (values: scale; x, y; cos,
sin; scale, x, y): what the energy is given. --mode=compose adds the energies of several.
seen_size, seen_position, seen_both: of a part of the combinations of a square's size and place, so
that the others can be asked for (benchmarks/held_out_combinations.py).
Five convolutions and two dense layers, swish; K = 20, lambda = 500, no clipping. *Quirk* of the
published code: chains start at .5 + .5 N(0, 1), and the data are not dequantized.
Hardware: one GPU; this code has not run it to its end. The paper gives pictures, no figure.
"""

import ml_collections

from configs import cifar10_igebm, default
from ebm_jax.data.sources.factors import VALUES

SEEN = {"seen_size": "size", "seen_position": "position", "seen_both": "size_and_position"}
VARIANTS = ("shape", *VALUES, *SEEN)


def get_config(variant: str = "shape") -> ml_collections.ConfigDict:
    """The network of one factor."""
    default.check_variant(variant, VARIANTS)
    config = cifar10_igebm.get_config()
    config.data.name = "dsprites"
    label = SEEN.get(variant, variant)
    config.data.label = label
    if variant in SEEN:
        config.data.combinations = variant.removeprefix("seen_")
    config.data.dequantize = False
    config.network = default.network(
        "igebm_conv",
        width=64,
        first_width=32,
        multipliers=(1, 2, 2, 2),
        gain_layer=2,
        num_classes=3 if label == "shape" else 0,
        label_size=VALUES.get(label, 0),
        activation="swish",
    )
    config.method.num_steps = 20
    config.method.step_size = 500.0
    config.method.max_grad = 0.0
    config.method.init_noise = "normal"
    config.training.batch_size = 256
    return config
