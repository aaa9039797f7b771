"""The option ``--executor``: where the images of a list are pulled or unpacked, other than in this process."""

from __future__ import annotations

import argparse
import os
import signal
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ociexport.errors import OciexportError, TransferError, UsageError, escaped, quoted
from ociexport.spec.numerals import number_in
from ociexport.system.threads import start_thread

if TYPE_CHECKING:
    from concurrent.futures import Executor
    from multiprocessing.process import BaseProcess

    from ociexport.transfer.pull_many import PullOutcome

_PROCESSES, _DASK = "processes", "dask:"
_MAX_PROCESSES = 256
_CONNECT_SECONDS = 30


def add_executor_argument(
    parser: argparse._ActionsContainer, *, task: str = "pull the images", place: str = "--out"
) -> None:
    """Add the option to a command that works on a list.

    Args:
        task: of the command.
        place: the option for the output.
    """
    parser.add_argument(
        "--executor",
        metavar="WHERE",
        help=f"{task} of a list on processes[:N] or on a Dask cluster, dask:ADDRESS, whose workers see {place}",
    )


@contextmanager
def executor_from(options: argparse.Namespace) -> Iterator[Executor | None]:
    """Give the executor that the command line names; None without the option.

    Raises:
        UsageError: the option has another form, or the library for it is missing.
        TransferError: the cluster can't be reached.
    """
    text: str | None = options.executor
    if text is None:
        yield None
    elif text.startswith(_DASK) and text != _DASK:
        with _dask(text.removeprefix(_DASK)) as executor:
            yield executor
    elif text.partition(":")[0] == _PROCESSES:
        with _processes(text) as executor:
            yield executor
    else:
        raise UsageError(
            f"--executor: expected processes, processes:N or dask:ADDRESS, got {quoted(text)}",
            hint="for example --executor dask:tcp://scheduler.example:8786",
        )


def outcomes_of(outcomes: Iterator[PullOutcome], executor: Executor | None) -> Generator[PullOutcome, None, None]:
    """Yield the outcomes of a list.

    Raises:
        OciexportError: the executor itself failed, such as by a worker that was killed; its errors are of any class.
    """
    try:
        yield from outcomes
    except (OciexportError, OSError):
        raise
    except Exception as error:
        if executor is None:
            raise
        raise OciexportError(
            f"--executor: expected workers that end their images, got {type(error).__name__}: {escaped(str(error))}",
            hint="was a worker killed for want of memory? processes:N with fewer needs less",
        ) from error


@contextmanager
def _processes(text: str) -> Iterator[Executor]:
    from concurrent.futures import ProcessPoolExecutor  # noqa: PLC0415 - start-up: few lists are pulled so
    from multiprocessing import get_context  # noqa: PLC0415 - start-up: as above

    _, colon, given = text.partition(":")
    count = number_in(given, _MAX_PROCESSES) if colon else os.cpu_count() or 1
    if not count:
        raise UsageError(f"--executor processes: expected 1 to {_MAX_PROCESSES} processes, got {quoted(given)}")
    with ProcessPoolExecutor(count, mp_context=get_context("spawn"), initializer=_begin_worker) as executor:
        yield executor


def _begin_worker() -> None:
    """Make SIGTERM, which a service manager sends to all processes, end an image as Ctrl-C does, and not the worker.

    A worker ends with the process that began it, also if that was killed. Otherwise it would wait for images for ever.
    """
    from multiprocessing import parent_process  # noqa: PLC0415 - start-up: as above

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    parent = parent_process()
    if parent is not None:
        start_thread(_end_with, parent, name="ends with the command")


def _end_with(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)


@contextmanager
def _dask(address: str) -> Iterator[Executor]:
    try:
        import distributed  # noqa: PLC0415 - start-up: an optional library
    except ImportError as error:
        raise UsageError(
            "--executor dask: expected the library distributed, it is not installed", hint="pip install distributed"
        ) from error
    try:
        library: Any = distributed  # its annotations are not complete
        client = library.Client(address, timeout=_CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError, TimeoutError, TypeError) as error:
        raise TransferError(f"--executor dask: expected a scheduler at {quoted(address)}, got none: {error}") from error
    with client, client.get_executor() as executor:
        yield executor
