"""Signs that chains stand still although they are accepted: a warning, and numbers for JSON."""

from collections.abc import Sequence
from typing import Any

from ebm_jax.samplers import MOST_ROUGHNESS


def metrics(roughness: float, where: str, stuck: Sequence[Any]) -> dict[str, Any]:
    """For the JSON.

    roughness: `samplers.roughness` in nats, at `where`. stuck: where warm-up left chains that do
    not move.
    """
    return {
        "arithmetic": "networks in float32, products at the highest precision",
        "roughness": {"nats": roughness, "at": where, "too_large_from": MOST_ROUGHNESS},
        "warm_up_left_stuck": list(stuck),
    }


def warning(roughness: float, stuck: Sequence[Any], what: str) -> list[str]:
    """One line, or none where nothing is wrong. what: of which `stuck` are some, in the plural."""
    reasons = []
    if roughness > MOST_ROUGHNESS:
        reasons.append(
            f"the energy jumps by {roughness:.2g} nats between neighboring floats, which decides "
            "acceptance by noise"
        )
    if stuck:
        some = ", ".join(map(str, stuck[:5])) + (", ..." if len(stuck) > 5 else "")
        reasons.append(f"warm-up left chains that hardly move at {len(stuck)} {what} ({some})")
    return [f"warning: {'; '.join(reasons)}"] if reasons else []
