"""What a network computes once per energy, not once per evaluation.

A chain evaluates one energy many times with the same parameters and the same levels. A layer marks
what does not depend on x with `prepared`. `networks.make_energy_fn` runs the network once with the
collection 'prepared' open, keeps what was stored there, and every later call reads it back. Without
that collection (`module.apply({'params': ...}, x)`) the value is simply computed in place.
"""

from collections.abc import Callable
from typing import Any

from flax import linen as nn

COLLECTION = "prepared"


def prepared(module: nn.Module, name: str, compute: Callable[[], Any]) -> Any:
    """The value of compute(), which must not depend on x: read back if it was stored before."""
    if module.has_variable(COLLECTION, name):
        return module.get_variable(COLLECTION, name)
    value = compute()
    if module.is_mutable_collection(COLLECTION) and not module.is_initializing():
        module.put_variable(COLLECTION, name, value)
    return value
