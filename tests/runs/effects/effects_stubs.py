"""A network and data that can be written down, and configs of runs on them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from configs import default
from ebm_jax.data import Dataset
from ebm_jax.io.resumable import ResumableWork
from ebm_jax.networks.registry import NETWORKS
from ebm_jax.runs import build
from ebm_jax.settings import setting

KEY = jax.random.key(7)
SHAPE = (2, 2, 1)
BATCH = 16


class Quadratic(nn.Module):
    """E(x, c) = theta (1 + c) |x|^2 / 2 of images; a dropout mask multiplies x^2."""

    image_size: int
    channels: int = 1
    theta: float = setting(0.3, "at the start", above=0)
    formulation: str = "auto"
    dtype: jnp.dtype = jnp.float32
    num_classes = None

    @property
    def input_shape(self):
        return self.image_size, self.image_size, self.channels

    @property
    def mask_shapes(self):
        return [self.input_shape]

    @nn.compact
    def __call__(self, x, condition=None, *, keep_masks=None):
        theta = self.param("theta", nn.initializers.constant(self.theta), ())
        squares = x**2 if keep_masks is None else keep_masks[0] * x**2
        level = 0.0 if condition is None else jnp.asarray(condition)
        return theta * (1 + level) * jnp.sum(squares, (1, 2, 3)) / 2


def images(split):
    """120 images of 2 x 2 pixels about the middle gray, others for each split."""
    rng = np.random.default_rng(len(split))
    gray = np.clip(np.round(127.5 * (1 + 0.2 * rng.normal(size=(120, *SHAPE)))), 0, 255)
    labels = np.arange(120, dtype=np.int32) % 2
    return Dataset("made", split, gray.astype(np.uint8), labels, 2, (0.0, 255.0))


@pytest.fixture(scope="module", autouse=True)
def full_bars():
    """Work that ends well has shown a bar, and each is full when the next one begins."""
    usual_begin, usual_exit = ResumableWork.begin, ResumableWork.__exit__

    def check(bar):
        if bar.progress is not None:
            assert bar.done == bar.progress._total, bar.progress._description

    def begin(self, description, total):
        check(self._bar)
        usual_begin(self, description, total)

    def leave(self, kind, *error):
        if kind is None:
            assert self._bar.progress is not None or self._folder.parent.name == "card"
            check(self._bar)
        usual_exit(self, kind, *error)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ResumableWork, "begin", begin)
        patch.setattr(ResumableWork, "__exit__", leave)
        yield


@pytest.fixture(scope="module", autouse=True)
def stubs(full_bars):
    """The network by the name 'quadratic', the images as every data set."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(NETWORKS, "quadratic", Quadratic)
        patch.setattr(build, "load_split", lambda config, split: images(split))
        yield


def config_of(method, **values):
    """A short run of a method with the quadratic network on the images."""
    config = default.get_config()
    config.data.random_flip = False
    config.network = default.network("quadratic")
    config.method = default.method(method, **values)
    config.sampler = default.sampler(method)
    config.optimizer = default.optimizer("adam", learning_rate=1e-2)
    config.training.update(batch_size=BATCH, num_steps=3, ema_decay=0.9)
    config.train.update(log_every=1, sample_every=0, checkpoint_every=1)
    config.sampling.update(num_samples=16, batch_size=16)
    return config


def built(config):
    """(method, parameters, state) of a config, before the first step."""
    method = build.build(config).method
    params, state = method.init(KEY, {"image": jnp.asarray(EXAMPLES)})
    return method, params, state


def loss_of(method, params, state, x=None):
    """(loss, metrics by name as means, the next state) of a batch."""
    batch = {"image": jnp.asarray(EXAMPLES if x is None else x)}
    loss, (state, metrics) = jax.jit(method.loss)(params, state, batch, KEY)
    means = {name: m.value() if hasattr(m, "value") else m for name, m in metrics.items()}
    return float(loss), {name: np.asarray(value) for name, value in means.items()}, state


EXAMPLES = np.random.default_rng(0).uniform(-0.9, 0.9, (BATCH, *SHAPE)).astype(np.float32)
INDEX = np.arange(BATCH, dtype=np.int32)
