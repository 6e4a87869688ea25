"""How long each set-up keeps the click in which browser, and the docs' table of it.

``tests/browser/test_click_lifetimes.py`` measures; this module, run as a program,
writes what was seen last into docs/browsers.md. ``make browsers`` does both.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

TOP: Final = Path(__file__).parents[2]
PAGE: Final = TOP / "docs" / "browsers.md"
BEGIN: Final = "<!-- written by `make browsers` -->\n"
END: Final = "<!-- until here -->\n"

COLUMNS: Final = {
    "chromium": "Chromium",
    "firefox": "Firefox",
    "webkit": "WebKit",
    "tracked": "WebKit, by a tracker's link",
}
"""An engine's name, or the landing by link decoration that WebKit tells apart."""


@dataclass(frozen=True)
class SetUp:
    """A row: what it is called in the docs, and the days that hold in each column."""

    title: str
    days: dict[str, int]


def _days(elsewhere: int, webkit: int, tracked: int) -> dict[str, int]:
    both = dict.fromkeys(("chromium", "firefox"), elsewhere)
    return both | {"webkit": webkit, "tracked": tracked}


SET_UPS: Final = {
    "dub": SetUp("Dub's own script", _days(90, 7, 1)),
    "subdomain": SetUp(
        "[the relay on a subdomain](recipes.md#on-a-subdomain)", _days(90, 7, 1)
    ),
    "beside": SetUp(
        "[beside the site](recipes.md#beside-your-site)", _days(90, 90, 90)
    ),
    "restored": SetUp(
        "beside it, the script's cookie lost and restored", _days(90, 90, 90)
    ),
    "front": SetUp(
        "[in front of the site](recipes.md#in-front-of-your-site)", _days(90, 90, 90)
    ),
    "no script": SetUp("in front of it, JavaScript off", _days(90, 90, 90)),
}


@dataclass
class Seen:
    """What a run saw in one engine."""

    engine: str
    version: str
    day: str
    days: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def file(self) -> Path:
        return TOP / "build" / "browsers" / f"{self.engine}.json"

    def save(self) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(json.dumps(asdict(self)))


def table(seen: list[Seen]) -> str:
    """What the runs saw, as Markdown."""
    days: dict[str, dict[str, float]] = {}
    for run in seen:
        for name, columns in run.days.items():
            days.setdefault(name, {}).update(columns)
    rows = [["", *COLUMNS.values()], ["---"] * (len(COLUMNS) + 1)]
    for name, one in SET_UPS.items():
        rows.append([one.title, *(_cell(days, name, it) for it in COLUMNS)])
    lines = [f"| {' | '.join(row)} |".replace("|  |", "| |") for row in rows]
    runs = ", ".join(f"{run.version} on {run.day}" for run in seen)
    return "\n".join([*lines, "", f"Seen in {runs}.", ""])


def _cell(days: dict[str, dict[str, float]], name: str, column: str) -> str:
    if column not in days.get(name, {}):
        return "not run"
    kept = round(days[name][column])
    return f"{kept} day{'s' if kept != 1 else ''}"


def main() -> None:
    """Write the table into the docs; all three engines must have run."""
    seen = [
        Seen(**json.loads(run.file.read_text()))
        for run in (Seen(name, "", "") for name in ("chromium", "firefox", "webkit"))
    ]
    before, rest = PAGE.read_text().split(BEGIN)
    _, after = rest.split(END)
    PAGE.write_text(before + BEGIN + table(seen) + END + after)


if __name__ == "__main__":
    main()
