"""Commands and settings that the documentation names in its sentences are there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import click
import pytest

from relay.cli.main import cli
from relay.config.settings import SETTINGS
from tests.support.samples import TOP, pages, samples, spans


def commands(group: click.Group) -> dict[str, click.Command]:
    """Return all commands of a group by their names."""
    context = click.Context(group)
    found = (
        (it, group.get_command(context, it)) for it in group.list_commands(context)
    )
    return {name: command for name, command in found if command is not None}


COMMANDS: Final = re.compile(rf"dub-relay .*|({'|'.join(commands(cli))}) .*")
SPANS: Final = sorted({it for it in spans() if COMMANDS.fullmatch(it[1])})
"""Page and command, also where the text leaves out `dub-relay` itself."""

NEEDS_NO_WORDS: Final = {"version"}
"""Commands whose help says all."""

NOT_OURS: Final = {"RELAY_URL"}
"""What a sample calls a secret of its own."""


@pytest.mark.parametrize(("page", "span"), SPANS)
def test_a_command_in_a_sentence_is_one(page: str, span: str) -> None:
    """Its words and options are known; what stands for a value is not looked at."""
    words = span.removeprefix("dub-relay ").split()
    command: click.Command = cli
    while words and isinstance(command, click.Group) and words[0][0].islower():
        name = words.pop(0)
        found = commands(command).get(name)
        assert found is not None, f"{page}: there is no command {name} in `{span}`"
        command = found
    known = {it for option in command.params for it in option.opts}
    options = {it for it in words if it.startswith("-")}
    assert options <= known | {"--help", "-h"}, f"{page}: `{span}`"


def leaves(group: click.Group, before: str = "") -> Iterator[str]:
    """Name every command that does something."""
    for name, command in commands(group).items():
        if isinstance(command, click.Group):
            yield from leaves(command, f"{before}{name} ")
        else:
            yield before + name


def test_every_command_is_told_of() -> None:
    texts = [text for _, text in spans()] + [sample.text for sample in samples()]

    def told(command: str) -> bool:
        named = re.compile(rf"(^|\bdub-relay |\bmake ){command}\b")
        return any(named.search(text) for text in texts)

    assert {it for it in leaves(cli) if not told(it)} <= NEEDS_NO_WORDS


@pytest.mark.parametrize("page", list(pages()))
def test_every_setting_that_a_page_names_is_one(page: str) -> None:
    known = {it.env for it in SETTINGS} | {it.file_env for it in SETTINGS}
    text = (TOP / page).read_text()

    named = set(re.findall(r"\bRELAY_[A-Z_]*[A-Z]\b", text))

    assert named <= known | {"RELAY_CONFIG"} | NOT_OURS
