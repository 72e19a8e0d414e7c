"""A program: the samplers and energies where jax, numpy and what these require are all there is."""

import sys
from importlib.abc import MetaPathFinder
from importlib.metadata import packages_distributions

# jax requires numpy, scipy, ml_dtypes and opt_einsum.
INSTALLED = {"ebm_jax", "jax", "jaxlib", "ml_dtypes", "numpy", "opt_einsum", "scipy"}


class Hidden(MetaPathFinder):
    """Every other package that is installed here is not found."""

    def __init__(self):
        self.names = set(packages_distributions()) - INSTALLED - sys.stdlib_module_names

    def find_spec(self, fullname, path, target=None):
        name = fullname.partition(".")[0]
        if name in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


if __name__ == "__main__":
    hidden = Hidden()
    assert {"flax", "optax"} <= hidden.names
    sys.meta_path.insert(0, hidden)

    import jax
    import jax.numpy as jnp

    from ebm_jax import energy, samplers

    def gaussian(x):
        return 0.5 * jnp.sum(x**2, axis=1)

    kernel = samplers.mala(energy.sum_energies([gaussian, gaussian]), step_size=0.3)
    state, _ = samplers.run_chain(jax.random.key(0), kernel, jnp.zeros((2_000, 2)), 50)
    print(float(state.x.std()))
    _, info = samplers.run_chain(jax.random.key(1), kernel, state, 2, keep_every=1)
    try:
        samplers.to_arviz(info)
    except ImportError as error:
        print(error)
