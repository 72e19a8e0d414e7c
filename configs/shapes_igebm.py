"""Rendered shapes, one energy per factor, with IGEBM: composition of concepts on two CPU cores.

    python main.py --config=configs/shapes_igebm.py:shape --workdir=runs/shape
    python main.py --config=configs/shapes_igebm.py:size --workdir=runs/size
    python main.py --config=configs/shapes_igebm.py:position --workdir=runs/position

dSprites' factors drawn at 32 x 32 (`ebm_jax/data/sources/shapes.py`). The network is residual and
takes squares of 4 x 4 pixels as channels: on a CPU a step costs a tenth of that of
`configs/dsprites_igebm.py`, whose chains these are.
Variants as there: shape, size, position, rotation, size_and_position. --mode=compose adds the
energies. Of held-out combinations of size and place: seen_size, seen_position, seen_both, as in
benchmarks/held_out_combinations.py.
"""

import ml_collections

from configs import default, dsprites_igebm

VARIANTS = dsprites_igebm.VARIANTS


def get_config(variant: str = "shape") -> ml_collections.ConfigDict:
    """The network of one factor."""
    config = dsprites_igebm.get_config(variant)
    config.data.name = "shapes"
    config.network = default.network(
        "igebm_resnet",
        width=32,
        multipliers=(1, 2),
        num_blocks=(2, 1),
        num_classes=config.network.num_classes,
        label_size=config.network.label_size,
        activation="swish",
        final_activation="swish",
        patch_size=4,
    )
    config.method.buffer_size = 5_000
    config.method.buffer_shards = 2
    config.cpu_devices = 2
    config.training.batch_size = 64
    config.training.num_steps = 3_000
    config.train.log_every = 50
    config.train.sample_every = 1_000
    config.train.checkpoint_every = 500
    config.train.max_retries = 1
    if config.data.combinations:  # few images, which differ in little: a smaller network
        config.network.update(width=24, num_blocks=(1, 1), patch_size=8)
        config.optimizer.learning_rate = 1e-3
        config.training.batch_size = 32
        config.training.ema_decay = 0.99
        config.training.num_steps = 1_500
    return config
