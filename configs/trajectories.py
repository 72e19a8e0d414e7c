"""Trajectories by IGEBM: an energy of a state given the frames before it (Du & Mordatch 2019).

    python main.py --config=configs/trajectories.py --workdir=runs/pendulum
    python main.py --config=configs/trajectories.py --workdir=runs/pendulum --mode=rollout
    python main.py --config=configs/trajectories.py:hand --workdir=runs/hand

Variants: pendulum (default), linear_gaussian and hand, given one frame; with the suffix _4, given
four; hand_actions and hand_4_actions, given the action that led to the state too. `python -m
ebm_jax.data.simulators.generate hand.npz` makes the hand's file, which --config.data.path=hand.npz
names.
Of the published program: layers of 128, 128 and 128 units, chains of K = 20 steps of 2 (two of 1 by
one gradient) from the last frame + U(-.3, .3), noise of .001, no bound on the gradient, the KL
term, no buffer, Adam of beta_1 = 0 with elements clipped, 1e-3 after a short warm-up. Its leaky
ReLU, constant rate, four frames, batches of 1,024 and ten epochs of 180,000 trajectories are those
of hand_published alone; the others have swish and a cosine, with which one-step samples are right
after minutes. None has it all: the box of 10 standard deviations, noise before the first step and
EMA weights are ours. How many frames the paper took is not known.
Hardware: two CPU cores, minutes; for hand_published an accelerator, and this code has not run it.
"""

import ml_collections

from configs import default

NUM_ACTIONS = 20  # of the hand
SIZES = {"pendulum": 3, "linear_gaussian": 2, "hand": 31}  # values of a state
VARIANTS = (
    *(f"{name}{suffix}" for name in SIZES for suffix in ("", "_4")),
    "hand_actions",
    "hand_4_actions",
    "hand_published",
)


def get_config(variant: str = "pendulum") -> ml_collections.ConfigDict:
    """One set of trajectories by name, and the number of frames."""
    default.check_variant(variant, VARIANTS)
    name = next(name for name in SIZES if variant.startswith(name))
    is_published = variant == "hand_published"
    context = 4 if "_4" in variant or is_published else 1
    num_actions = NUM_ACTIONS if variant.endswith("_actions") else 0

    config = default.get_config()
    config.data.name = "trajectories" if name == "hand" else name
    config.data.context = context
    config.data.actions = num_actions > 0
    config.data.low, config.data.high = -10.0, 10.0  # standard deviations
    config.data.random_flip = False
    label_size = num_actions + context * SIZES[name]
    config.network = default.network("conditional_mlp", label_size=label_size)
    config.method = default.method(
        "contrastive_divergence",
        num_steps=20,
        step_size=2.0,
        noise_std=0.001 / 20,  # of the range
        max_grad=0.0,
        chain_init="context",
        context_noise=0.3,
        form="cd_with_kl",
    )
    config.sampler = default.sampler("contrastive_divergence")
    config.optimizer = default.optimizer("igebm_adam", learning_rate=1e-3, warmup_steps=200)
    config.training.batch_size = 128
    config.training.num_steps = 1_500
    config.training.ema_decay = 0.99
    if is_published:
        config.training.update(batch_size=1_024, num_steps=166_250, ema_decay=0.999)
    else:
        config.network.activation = "swish"
        config.optimizer.schedule = "cosine"
    config.train.log_every = 100
    config.train.sample_every = 0
    config.train.checkpoint_every = 500
    config.sampling.num_samples = 1_000
    config.sampling.batch_size = 1_000
    return config
