"""Run the stack until a signal arrives: the first one stops it, the second one kills its processes."""

from __future__ import annotations

import asyncio
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mongars.bootstrap.stack.ownership import StopReport
    from mongars.bootstrap.stack.stack import LocalStack

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


async def run_stack(stack: LocalStack, *, on_ready: Callable[[], None]) -> StopReport:
    """Start the local stack, call `on_ready`, and stop it at SIGINT, SIGTERM or SIGHUP; returns what was stopped.

    A signal during the start stops it, too, without a call of `on_ready`. At a second signal, the processes are killed
    at once. Raises `ConfigurationError`, `ProvisioningFailed` or `NotReady` if the stack cannot start; everything is
    then stopped again.
    """
    with _signals_stop(stack) as signals:
        try:
            async with stack:
                on_ready()
                await stack.wait()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not signals or task is None:  # cancelled from outside
                raise
            task.uncancel()
    return stack.report


@contextmanager
def _signals_stop(stack: LocalStack) -> Iterator[list[signal.Signals]]:
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    signals: list[signal.Signals] = []

    def ask(number: signal.Signals) -> None:
        signals.append(number)
        if stack.stopping or len(signals) > 1 or task is None:
            stack.hurry()
        else:
            task.cancel()

    for number in _SIGNALS:
        loop.add_signal_handler(number, ask, number)
    try:
        yield signals
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
