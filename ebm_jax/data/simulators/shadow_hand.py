"""A simulated Shadow hand that moves a free cube about, by MuJoCo.

The model and its reset are those of the `HandManipulateBlock` of gymnasium-robotics (Plappert et
al. 2018, arXiv 1802.09464), whose files are read; its Gym layer is not used. A state has 31 values:
the angles of 24 joints (radians), and of the cube the position (x, y, z; meters) and the unit
quaternion (w, x, y, z), of which q and -q are the same orientation: the first has w >= 0 and each
that follows the sign that is nearer to the one before.

The hand has no trained policy. Its actions, targets of 20 actuators from -1 to 1, are

    a_t = clip(.9 a_{t-1} + .44 xi_t, -1, 1),  xi_t ~ U(-s, s) with s = sqrt(3) / 2,

and every fourth is uniform instead: the fingers wander rather than manipulate.
"""

import importlib
import importlib.util
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

# MuJoCo's names without the 'robot0:' before each.
JOINTS = (
    "WRJ1 WRJ0 FFJ3 FFJ2 FFJ1 FFJ0 MFJ3 MFJ2 MFJ1 MFJ0 RFJ3 RFJ2 RFJ1 RFJ0 "
    "LFJ4 LFJ3 LFJ2 LFJ1 LFJ0 THJ4 THJ3 THJ2 THJ1 THJ0"
).split()
_CUBE = ("cube_x", "cube_y", "cube_z", "cube_qw", "cube_qx", "cube_qy", "cube_qz")
COLUMNS = (*JOINTS, *_CUBE)
STATE_SIZE = 31
NUM_JOINTS = 24
NUM_ACTIONS = 20
STEP_SECONDS = 0.04  # of one action
_SUBSTEPS = 20  # of 2 ms each
_SETTLING_STEPS = 10  # under the action 0, before the first state
_LOWEST_CUBE = 0.04  # meters; below, it has left the hand
_CUBE_START = (1.0, 0.87, 0.2)
_CUBE_SPREAD = 0.005  # meters
_RANDOM_EVERY = 4


class Hand(NamedTuple):
    """A model and its state. `mujoco` is the module, which is no dependency of this package."""

    mujoco: Any
    model: Any
    data: Any


class Episode(NamedTuple):
    """What one attempt that kept the cube recorded.

    Attributes:
        states: float32 [length, 31].
        actions: float32 [length, 20]; that of a row led to its state.
        num_discarded: attempts before it that dropped the cube.
    """

    states: np.ndarray
    actions: np.ndarray
    num_discarded: int


def load_hand() -> Hand:
    """The hand with its cube.

    Raises:
        ImportError: one line, where mujoco or the hand's files are not installed.
    """
    try:
        mujoco: Any = importlib.import_module("mujoco")
    except ImportError as error:
        raise ImportError(
            "the Shadow hand is simulated by mujoco: pip install 'ebm_jax[hand]'"
        ) from error
    package = importlib.util.find_spec("gymnasium_robotics")  # found, and not imported
    if package is None or not package.submodule_search_locations:
        raise ImportError(
            "the Shadow hand's files are those of gymnasium-robotics: pip install 'ebm_jax[hand]'"
        )
    folder = Path(package.submodule_search_locations[0])
    model = mujoco.MjModel.from_xml_path(str(folder / "envs/assets/hand/manipulate_block.xml"))
    return Hand(mujoco, model, mujoco.MjData(model))


def simulate(hand: Hand, *, seed: int, number: int, length: int) -> Episode:
    """One trajectory, a function of (seed, number): attempts are made until one keeps the cube.

    Args:
        hand: whose state is overwritten.
        seed: of a set of trajectories. number: of this one in it, from 0.
        length: number of states, 40 ms apart.
    """
    attempt = 0
    while True:
        rng = np.random.default_rng([seed, number, attempt])
        recorded = _attempt(hand, rng, length)
        if recorded is not None:
            states, actions = recorded
            states = continuous_quaternions(states).astype(np.float32)
            return Episode(states, actions.astype(np.float32), attempt)
        attempt += 1


def continuous_quaternions(states: np.ndarray) -> np.ndarray:
    """States [length, 31] with the signs of their quaternions chosen as the module says."""
    states = states.copy()
    quaternions = states[:, -4:]
    first = 1.0 if quaternions[0, 0] >= 0 else -1.0
    agrees = np.sum(quaternions[1:] * quaternions[:-1], axis=1) >= 0
    signs = first * np.cumprod(np.concatenate([[1.0], np.where(agrees, 1.0, -1.0)]))
    quaternions *= signs[:, None]
    return states


def lines(hand: Hand, state: np.ndarray) -> list[np.ndarray]:
    """The cube's edges and the hand's bones, for drawings: points [m, 3] each, meters.

    Forward kinematics alone; nothing is rendered, which would want a driver. A quaternion that is
    not of length 1 is made so.
    """
    data, model = hand.data, hand.model
    data.qpos[:STATE_SIZE] = state
    hand.mujoco.mj_kinematics(model, data)
    cube = model.body("object").id
    half = model.geom("object").size
    turned = data.xmat[cube].reshape(3, 3) * half  # columns: half edges
    around = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1], [-1, -1]])
    edges = []
    for axis in range(3):  # the two faces across each axis have all edges
        for side in (-1, 1):
            corners = np.insert(around, axis, side, axis=1)
            edges.append(data.xpos[cube] + corners @ turned.T)
    first = model.body("robot0:wrist").id
    bones = [data.xpos[[model.body_parentid[body], body]] for body in range(first + 1, cube)]
    tips = [
        np.stack([data.xpos[model.body(f"robot0:{finger}distal").id],
                  data.site_xpos[model.site(f"robot0:S_{finger}tip").id]])
        for finger in ("ff", "mf", "rf", "lf", "th")
    ]  # fmt: skip
    return [*edges, *bones, *tips]


def _attempt(
    hand: Hand, rng: np.random.Generator, length: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """(states [length, 31], actions [length, 20]); None where the cube was dropped."""
    _reset(hand, rng)
    action = np.zeros(NUM_ACTIONS)
    for _ in range(_SETTLING_STEPS):
        _step(hand, action)
    states, actions = np.empty((length, STATE_SIZE)), np.empty((length, NUM_ACTIONS))
    width = np.sqrt(3.0) / 2
    for t in range(length):
        if t % _RANDOM_EVERY == _RANDOM_EVERY - 1:
            action = rng.uniform(-1.0, 1.0, NUM_ACTIONS)
        else:
            noise = rng.uniform(-width, width, NUM_ACTIONS)
            action = np.clip(0.9 * action + 0.44 * noise, -1.0, 1.0)
        _step(hand, action)
        states[t], actions[t] = hand.data.qpos[:STATE_SIZE], action
        if not states[t, NUM_JOINTS + 2] > _LOWEST_CUBE:  # a NaN is a dropped cube too
            return None
    return states, actions


def _reset(hand: Hand, rng: np.random.Generator) -> None:
    hand.mujoco.mj_resetData(hand.model, hand.data)
    hand.data.qpos[NUM_JOINTS : NUM_JOINTS + 3] = rng.normal(_CUBE_START, _CUBE_SPREAD)
    orientation = rng.standard_normal(4)  # uniform on the sphere of unit quaternions
    hand.data.qpos[NUM_JOINTS + 3 : STATE_SIZE] = orientation / np.linalg.norm(orientation)
    hand.mujoco.mj_forward(hand.model, hand.data)


def _step(hand: Hand, action: np.ndarray) -> None:
    low, high = hand.model.actuator_ctrlrange.T
    hand.data.ctrl[:] = (low + high) / 2 + action * (high - low) / 2
    # The model's second cube, which shows a goal, would otherwise fall without end.
    hand.data.qpos[STATE_SIZE:] = hand.model.qpos0[STATE_SIZE:]
    hand.data.qvel[-6:] = 0.0
    hand.mujoco.mj_step(hand.model, hand.data, nstep=_SUBSTEPS)
