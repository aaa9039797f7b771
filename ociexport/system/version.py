"""The version of this package, for those who tell it."""

__version__ = "0.1.0"
