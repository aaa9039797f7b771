"""Submitted: the orders of a list at an executor, a limited number at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait
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
        self._failure: Exception | None = None
        self._submit_next(at_a_time)

    @property
    def is_any_left(self) -> bool:
        """Whether another outcome follows, or an error."""
        return bool(self._running) or self._failure is not None

    def next_within(self, seconds: float | None) -> _Outcome | None:
        """Return the next outcome; None if there is none within ``seconds``.

        Raises:
            any error of the executor; one of submitting an order is raised by the call after that.
        """
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        try:
            future = self._ended.get(timeout=seconds)
        except Empty:
            return None
        self._running.discard(future)
        outcome = self._outcome_of(future.result())
        try:
            self._submit_next(1)
        except Exception as error:  # of any class: this outcome is told first
            self._failure = error
        return outcome

    def cancel(self, seconds: float) -> None:
        """Cancel what has not begun. What ends within ``seconds`` is taken, though nobody is told."""
        begun = {future for future in self._running if not future.cancel()}
        for future in wait(begun, timeout=seconds).done:
            if not future.cancelled() and future.exception() is None:
                self._outcome_of(future.result())

    def _submit_next(self, count: int) -> None:
        for order in islice(self._orders, count):
            future = self._submit(order)
            self._running.add(future)
            future.add_done_callback(self._ended.put)
