"""Submitted: the orders of a list at an executor, a limited number at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future
from itertools import islice
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

_Order = TypeVar("_Order")
_Ended = TypeVar("_Ended")
_Outcome = TypeVar("_Outcome")


class Submitted(Generic[_Order, _Ended, _Outcome]):
    """Submits orders, a limited number at a time, and returns their outcomes in the order in which they end.

    Args:
        outcome_of: takes what a worker returned.
    """

    def __init__(
        self,
        orders: Iterable[_Order],
        at_a_time: int,
        submit: Callable[[_Order], Future[_Ended]],
        outcome_of: Callable[[_Ended], _Outcome],
    ) -> None:
        self._orders = iter(orders)
        self._submit = submit
        self._outcome_of = outcome_of
        self._ended: SimpleQueue[Future[_Ended]] = SimpleQueue()
        self._running: set[Future[_Ended]] = set()
        self._submit_next(at_a_time)

    @property
    def is_any_left(self) -> bool:
        """Whether another outcome follows."""
        return bool(self._running)

    def next_within(self, seconds: float | None) -> _Outcome | None:
        """Return the next outcome; None if there is none within ``seconds``."""
        try:
            future = self._ended.get(timeout=seconds)
        except Empty:
            return None
        self._running.discard(future)
        outcome = self._outcome_of(future.result())
        self._submit_next(1)
        return outcome

    def cancel(self) -> None:
        """Cancel what has not begun. What has ended meanwhile is taken, though nobody is told."""
        for future in self._running:
            if not future.cancel() and future.done() and future.exception() is None:
                self._outcome_of(future.result())

    def _submit_next(self, count: int) -> None:
        for order in islice(self._orders, count):
            future = self._submit(order)
            self._running.add(future)
            future.add_done_callback(self._ended.put)
