"""Where settings are written: a TOML file, the environment, files of secrets.

Nothing is parsed here. What is found keeps the name under which it was found, so that
a mistake is reported in the operator's own words.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from relay.config.declaration import Setting

CONFIG_ENV: Final = "RELAY_CONFIG"

DEFAULT_CONFIG: Final = "relay.toml"
"""Read from the working folder when no file is named, if it is there."""

RULES_KEY: Final = "signup"

HOOKS_KEY: Final = "hook"
"""The list of ``[[hook]]`` tables; as one table it holds ``hook.secret``."""

LIKE_OURS: Final = 0.9
"""How like one of ours an unknown ``DUB_*`` name is, from 0 to 1, to be a slip: two
letters swapped are one, a name of Dub's own tools is not."""

# Kubernetes sets variables about every service of its namespace in every container,
# named after the service; one called "relay" must not stop the relay
# (kubernetes.io/docs/concepts/services-networking/service, "Environment variables").
# RELAY_PORT is such a variable only with an address in it.
_KUBERNETES: Final = re.compile(
    r"RELAY_(SERVICE_HOST=|SERVICE_PORT(_\w+)?=|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?="
    r"|PORT=(tcp|udp|sctp)://)"
)


class ConfigError(Exception):
    """Settings are wrong: a line each, which says what and why, not its value."""

    def __init__(self, *problems: str) -> None:
        super().__init__(*problems)
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(self.problems)


@dataclass(frozen=True, slots=True)
class Written:
    """What was written for a setting, its names there, and where that is."""

    raw: object
    label: str
    origin: str


def config_path(path: str | None, environ: Mapping[str, str]) -> str | None:
    """Choose the file: the one named, RELAY_CONFIG, else relay.toml if it is there."""
    if named := path or environ.get(CONFIG_ENV):
        return named
    return DEFAULT_CONFIG if Path(DEFAULT_CONFIG).exists() else None


def read_config(path: str) -> tuple[str, dict[str, Any]]:
    """Read a TOML file; return its text and its document."""
    # Editors on Windows put a byte order mark first, which TOML does not allow.
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
        return text, tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: is nested too deeply") from error
    except ValueError as error:
        last = f"at line {text.count(chr(10)) + 1}, the end of the file"
        reason = str(error).replace("at end of document", last)
        raise ConfigError(f"{path}: is not TOML: {reason}") from error


def flat(document: Mapping[str, Any], settings: Sequence[Setting]) -> dict[str, object]:
    """Turn a document's tables into dotted keys."""
    return dict(_leaves(document, {setting.toml for setting in settings}))


def _leaves(
    document: Mapping[str, Any], known: set[str], above: str = ""
) -> Iterator[tuple[str, Any]]:
    for name, value in document.items():
        key = f"{above}{name}"
        # A table under a setting's own name stays whole: its parser refuses it.
        if isinstance(value, dict) and key not in known:
            yield from _leaves(value, known, f"{key}.")
        else:
            yield key, value


def unknown_keys(
    keys: Iterable[str], settings: Sequence[Setting], config: str | None
) -> Iterator[str]:
    """Yield a line for each key that is no setting."""
    known = [RULES_KEY, HOOKS_KEY, *(setting.toml for setting in settings)]
    for key in keys:
        if any(name.startswith(f"{key}.") for name in known):
            yield f"{key}: not a table in {config}. Write it as [{key}]."
        elif key not in known:
            yield f"{key}: unknown setting in {config}. {_nearest(key, known)}"


def unknown_names(
    environ: Mapping[str, str], settings: Sequence[Setting]
) -> Iterator[str]:
    """Yield a line for each environment name that looks like ours and is not.

    That is any ``RELAY_*``, but of ``DUB_*``, which others use too, only a slip.
    """
    known = {CONFIG_ENV, *(setting.env for setting in settings)}
    known.update(setting.file_env for setting in settings if setting.file_env)
    for name in sorted(set(environ) - known):
        if name.startswith("RELAY_"):
            ours = not _KUBERNETES.match(f"{name}={environ[name]}")
        else:
            ours = name.startswith("DUB_") and _is_slip(name, known)
        if ours:
            yield f"{name}: unknown setting. {_nearest(name, known)}"


def _is_slip(name: str, known: Iterable[str]) -> bool:
    return bool(difflib.get_close_matches(name, known, n=1, cutoff=LIKE_OURS))


def _nearest(name: str, known: Iterable[str]) -> str:
    """Name the nearest known name; one that has all of the name's words is nearer."""
    words = _words(name)
    fuller = [other for other in known if words <= _words(other)]
    near = difflib.get_close_matches(name, sorted(fuller or known), n=1, cutoff=0)
    return f"The nearest known one is {near[0]}."


def _words(name: str) -> set[str]:
    return set(re.split(r"[._]", name))


def find(
    setting: Setting,
    environ: Mapping[str, str],
    keys: Mapping[str, object],
    config: str | None,
) -> Written | None:
    """Find what was written for a setting; the environment beats the file.

    Empty means unset, so that a deployment can blank a variable out.
    """
    if setting.file_env and environ.get(setting.file_env):
        return _from_file(setting, setting.file_env, environ)
    if given := environ.get(setting.env):
        return Written(given, setting.env, f"environment, {setting.env}")
    if keys.get(setting.toml, "") != "":
        label = f"{setting.env} ({setting.toml} in {config})"
        return Written(keys[setting.toml], label, str(config))
    return None


def _from_file(setting: Setting, name: str, environ: Mapping[str, str]) -> Written:
    if environ.get(setting.env):
        raise ConfigError(f"{setting.env}: {name} is set as well. Keep one of them.")
    try:
        content = Path(environ[name]).read_text("utf-8").rstrip("\r\n")
    except OSError as error:
        raise ConfigError(f"{name}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name}: the file is not UTF-8.") from error
    if not content:
        raise ConfigError(f"{name}: the file is empty.")
    return Written(content, name, f"file, {name}")
