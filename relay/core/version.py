"""The version, for every room: the top package imports them all."""

from typing import Final

VERSION: Final = "0.1.0"
