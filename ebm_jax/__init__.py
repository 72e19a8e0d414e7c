"""Energy-based models in JAX.

Nothing is imported here, so that `from ebm_jax import samplers` brings in jax and numpy alone.
"""

__version__ = "0.1.0"
