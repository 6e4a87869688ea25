"""The names Dub gives to customers that came without one."""

from __future__ import annotations

from random import Random
from typing import Final

_ADJECTIVES: Final = ("Able", "Brisk", "Calm", "Dapper", "Eager", "Frank", "Gentle")
_COLORS: Final = ("Amber", "Blue", "Coral", "Green", "Ivory", "Rose", "Violet")
_ANIMALS: Final = ("Badger", "Crane", "Dolphin", "Falcon", "Heron", "Lynx", "Otter")


def random_name(rng: Random) -> str:
    """Make a capitalised "Adjective Color Animal", as Dub does."""
    return " ".join(rng.choice(words) for words in (_ADJECTIVES, _COLORS, _ANIMALS))
