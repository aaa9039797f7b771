"""SIGINT, SIGTERM and SIGHUP end the command by an exception in the main thread.

Such an exception may arrive anywhere, also in library code between taking a lock and the block that gives it back
(`threading.Condition`, `queue.Queue`). On the way out the main thread then waits for a lock that it has itself. After a
signal a timer therefore looks at the main thread, and raises the exception again if it waits where it waited before.
"""

from __future__ import annotations

import signal
import sys

TYPE_CHECKING = False  # as in `main`: typing takes a tenth of what --version takes
if TYPE_CHECKING:
    from types import FrameType
    from typing import NoReturn

# Threads that fetch have less than a second to end, so who waits longer for a lock waits in vain.
_LOOK_SECONDS = 2.0


class Terminated(BaseException):
    """SIGTERM or SIGHUP arrived. It is not an Exception, so only clean-up code catches it."""

    def __init__(self, number: int) -> None:
        super().__init__("terminated")
        self.number = number


def raise_at_signals() -> None:
    """From now on these signals raise `KeyboardInterrupt` and `Terminated` in the main thread, which calls this."""
    signal.signal(signal.SIGTERM, _raise)
    for number, usual in ((signal.SIGHUP, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler)):
        # nohup ignores SIGHUP and a shell's background job ignores SIGINT, and the command goes on.
        if signal.getsignal(number) == usual:
            signal.signal(number, _raise)


def tells_warnings() -> bool:
    """Whether this process prints Python's warnings."""
    return bool(sys.warnoptions or sys.flags.dev_mode)


def stop_looking() -> None:
    """End the timer, if a signal started it."""
    if signal.getsignal(signal.SIGALRM) not in (signal.SIG_DFL, signal.SIG_IGN, None):
        signal.setitimer(signal.ITIMER_REAL, 0)


def _raise(number: int, _: FrameType | None) -> NoReturn:
    seen: tuple[FrameType, int] | None = None

    def look(_: int, frame: FrameType | None) -> None:
        nonlocal seen
        place = (frame, frame.f_lasti) if frame is not None and _waits_for_a_lock(frame) else None
        if place is not None and place == seen:
            raise _exception_of(number)
        seen = place

    warnings = sys.modules.get("warnings")  # imported at start-up where somebody asks for warnings
    if warnings is not None and tells_warnings():
        # A signal may arrive between the opening of a file or socket and the block that closes it.
        warnings.simplefilter("ignore", ResourceWarning)
    signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, _LOOK_SECONDS, _LOOK_SECONDS)
    raise _exception_of(number)


def _waits_for_a_lock(frame: FrameType) -> bool:
    if "join" in frame.f_code.co_name or frame.f_code.co_name == "_wait_for_tstate_lock":
        return False  # for another thread to end, which may take long on a slow disk
    modules = (sys.modules.get(name) for name in ("threading", "queue"))
    return frame.f_code.co_filename in {module.__file__ for module in modules if module is not None}


def _exception_of(number: int) -> BaseException:
    return KeyboardInterrupt() if number == signal.SIGINT else Terminated(number)
