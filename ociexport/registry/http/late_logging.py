"""A stand-in for `logging` while requests is imported: its loggers import the module with their first warning.

Nobody listens to the loggers of requests and urllib3 in the command's own process. So a message below a warning is
dropped as long as no other module has imported `logging`.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from ociexport.system.stand_ins import LateModule

if TYPE_CHECKING:
    import logging


class LateLogging(LateModule):
    """The module; `LateLogger` takes the place of its loggers."""

    DEBUG = 10
    # The loggers get the handler when they are made.
    NullHandler = object

    def __init__(self) -> None:
        super().__init__("logging")
        self._loggers: dict[str, LateLogger] = {}

    def getLogger(self, name: str) -> LateLogger:  # noqa: N802 - the name in `logging`
        """Return the stand-in of a logger."""
        return self._loggers.setdefault(name, LateLogger(name))


class LateLogger:
    """Stands for a logger, with the handler and the filters that were added to it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.filters: list[Any] = []

    def addHandler(self, handler: object) -> None:  # noqa: N802 - the name in `logging`
        """Do nothing: the libraries only add a handler that does nothing, and each logger gets one."""

    def addFilter(self, added: Any) -> None:  # noqa: N802 - the name in `logging`
        """Add a filter, once."""
        if added not in self.filters:
            self.filters.append(added)

    def debug(self, *arguments: Any, **options: Any) -> None:
        """Log a message, if anybody may listen."""
        if "logging" in sys.modules:
            self._itself().debug(*arguments, **options)

    def info(self, *arguments: Any, **options: Any) -> None:
        """Log a message, if anybody may listen."""
        if "logging" in sys.modules:
            self._itself().info(*arguments, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._itself(), name)

    def _itself(self) -> logging.Logger:
        module = importlib.import_module("logging")
        logger: logging.Logger = module.getLogger(self._name)
        if not logger.handlers:
            logger.addHandler(module.NullHandler())
        for added in self.filters:
            logger.addFilter(added)
        return logger
