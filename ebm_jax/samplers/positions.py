"""Former name of `ebm_jax.samplers._trees`; `norm` is exported by `ebm_jax.samplers`."""

from ebm_jax.samplers._trees import norm as norm
