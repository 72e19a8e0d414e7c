"""Ctrl-C and SIGTERM as a request that the training loop answers between two steps.

    with Interruption() as interruption:
        for step in range(first_step, num_steps):
            ...
            if interruption.requested(step + 1):
                checkpoints.save(step + 1, jax.device_get(state))
                sys.exit(interruption.exit_code)

With `jax.distributed`, all processes have to save the same step, though the signal reaches them at
different ones or reaches one alone. JAX's preemption service agrees on such a step; SIGTERM is left
to it, and Ctrl-C is passed on to it as a SIGTERM.
"""

import os
import signal
import threading
from types import FrameType
from typing import Any, Self

import jax
from jax.experimental import multihost_utils

_SAVING = "saving after this step; Ctrl-C again stops at once"


class Interruption:
    """Catches SIGINT and SIGTERM while it is entered; a context manager.

    The first signal is remembered, and said on stderr. A second Ctrl-C raises KeyboardInterrupt at
    once; a second SIGTERM ends the process. Entered outside the main thread, where Python allows no
    signal handlers, it never reports a request of its own process.
    """

    def __init__(self) -> None:
        self._signal: int | None = None
        self._usual: dict[int, Any] = {}
        self._shared = False

    def requested(self, step: int) -> bool:
        """Whether to save the state after `step` steps and leave.

        Call it after every step, on every process with the same steps.
        """
        if self._shared:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._signal is not None

    @property
    def exit_code(self) -> int:
        """130 after Ctrl-C, 143 after SIGTERM (128 + the signal's number, as shells have it)."""
        return 128 + (signal.SIGTERM if self._signal is None else self._signal)

    def __enter__(self) -> Self:
        self._shared = jax.distributed.is_initialized()
        if threading.current_thread() is threading.main_thread():
            # The preemption service has taken SIGTERM for itself; taking it back would disable it.
            for number in (signal.SIGINT,) if self._shared else (signal.SIGINT, signal.SIGTERM):
                self._usual[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._usual.items():
            signal.signal(number, handler)
        self._usual.clear()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._signal is not None:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self._signal = number
        # Not print: a handler may run in the middle of another print.
        os.write(2, f"\n{signal.Signals(number).name}: {_SAVING}\n".encode())
        if self._shared:
            os.kill(os.getpid(), signal.SIGTERM)
