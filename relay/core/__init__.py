"""Pure logic: no I/O, no event loop, no clock, no randomness."""

from typing import Final

VERSION: Final = "0.1.0"
"""The version, here for every room: the top package imports them all."""
