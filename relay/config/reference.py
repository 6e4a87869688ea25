"""What people read about the settings, written from their declarations.

``python -m relay.config.reference`` (``make docs``) rewrites relay.example.toml and
docs/settings.md; a test fails when they differ from the declarations.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from relay.config.declaration import Setting
from relay.config.settings import SETTINGS

SIGNUP_EXAMPLE: Final = """\
[[signup]]
method = "POST"
path = "/teams/{team}/signup"
event = "Sign Up"
when = "response.status == `201`"
customer_external_id = "response.json.user.id"
customer_name = "form.name"
customer_email = "form.email"
customer_avatar = "response.json.user.avatar"
mode = "async"
quantity = "json.seats"
metadata = { plan = "form.plan", team = "path.team" }
clear_cookie = true
known_customer = false
ignore_case = false
"""
"""One rule with every key it may have; a test compiles it."""

HOOK_EXAMPLE: Final = """\
[[hook]]
path = "hubspot"
scheme = "bearer"
header = "X-Relay-Key"
secret_env = "HUBSPOT_RELAY_KEY"
when = "json.lifecyclestage == 'lead'"
event = "Sign Up"
mode = "deferred"
customer_external_id = "json.email"
customer_name = "json.name"
customer_email = "json.email"
customer_avatar = "json.avatar"
quantity = "json.seats"
metadata = { plan = "json.plan" }
click = "json.dub_id"
id = "json.eventId"
known_customer = false
"""
"""One hook with the keys that go with one scheme; a test compiles it."""

_SAMPLE_HEAD: Final = """\
# dub-relay's settings. Copy this file to relay.toml and take the "#" away from
# what you want to change. A line shows the default, or an example where the text
# above it says "Required" or "Unset". Each can be set in the environment instead,
# which beats this file; secrets are better kept there, or in a file that an
# environment name ending in _FILE names.
# A duration is a number of seconds, or a text such as "500ms", "30m", "72h".
"""

_SAMPLE_RULES: Final = """\
# Sign-up rules, for the proxy: which of the site's requests are sign-ups, and
# where in request and answer a lead's fields stand. docs/settings.md explains.
"""

_SAMPLE_HOOKS: Final = """\
# Hooks of other services, read by expressions: docs/mapped-hooks.md. With them in this
# file, hook.secret goes into the environment (TOML has one [hook] or many [[hook]]):
"""

_PAGE_HEAD: Final = """\
# Settings

<!-- Generated from relay/config/ by `make docs`. -->

Settings are read from a TOML file and from the environment; the environment
beats the file. The file is the one that `--config` names, or `RELAY_CONFIG`, or
else `relay.toml` in the working folder if there is one. All are checked when
the relay starts: mistakes end it with exit code 2 and a line for each, which says
what is wrong and what to write instead. `dub-relay check` prints where each value
came from, with secrets masked. [relay.example.toml](../relay.example.toml) is this
table as a file to copy.
"""

_PAGE_NOTES: Final = """\
**Empty means unset**, in the environment and in the file.

**Secrets** (marked *secret*) may be given as a file: an environment name with
`_FILE` behind it, such as `DUB_API_KEY_FILE=/run/secrets/dub`, names a file
whose content is taken without the line break at its end. Both at once is an
error. To change a secret that takes a list, put the new one first, and remove
the old one when nothing uses it any more.

**Durations** are a number of seconds, or a number with a unit: `500ms`, `5s`,
`30m`, `72h`, `7d`.

**Environment names** are `RELAY_` and the TOML key in capitals, with `_` for its
dots: `limits.idle` is `RELAY_LIMITS_IDLE`. Otherwise named are `dub.api_key`,
`dub.api_url` and `dub.webhook_secret` (`DUB_…`), `[dashboard]` (`RELAY_ADMIN_…`),
`delivery.rate` and `delivery.retry_…` (`RELAY_RATE`, `RELAY_RETRY_…`).

**Unknown names** are an error, in the file and among `RELAY_*` in the
environment. Of `DUB_*`, which Dub's own tools use too, only a misspelt name of the
table is one. What Kubernetes sets for a service called `relay` is left alone.
"""

_PAGE_RULES: Final = f"""\
## Sign-up rules

For the proxy, in the TOML file only. A rule says which of the site's requests
are sign-ups, and where in request and answer a lead's fields stand. Of the rules
whose method and path match, the first whose `when` holds is taken. You need not write
it by hand: `dub-relay rules suggest` does ([how](signup-rules.md#find-the-rule)).

```toml
{SIGNUP_EXAMPLE}```

- `method` (default `POST`): the request's method.
- `path` (required): the path, with or without a slash at its end. `{{name}}` stands
  for one part of it, and `/*` at the end for everything below.
- `ignore_case` (default `false`): take `/SignUp` for `/signup`.
- `event` (default `Sign Up`): the event's name at Dub.
- `when` (default: [the default test](signup-rules.md#which-sign-ups-count), which knows
  how sites refuse): what counts as a sign-up that succeeded.
- `customer_external_id` (required): the site's own id of the customer, best out of the
  response ([why](signup-rules.md#whose-id)).
- `customer_name`, `customer_email`, `customer_avatar`: sent to Dub if found.
- `mode` (default `async`): `async`, `wait` or `deferred`, as Dub has them.
- `quantity`: how many leads this sign-up counts as, 1 to 100.
- `metadata`: a table of names and expressions.
- `clear_cookie` (default `true`): clear `dub_id` once the lead is safe, as
  Dub's guides do.
- `known_customer` (default `false`): where there is no click cookie, send an
  empty click id, which completes an earlier deferred lead.

`when`, the `customer_…` keys, `quantity` and the values of `metadata` are
[JMESPath](https://jmespath.org) over one document:

- `form`: the fields of a form, urlencoded or multipart, files left out;
- `json`: the request's JSON body, whatever its label;
- `query`, `path`, `headers`, `cookies`: the request's; `path` holds the
  placeholders, and header names are in lower case;
- `response.status`, `response.headers`, `response.cookies`, `response.json`: the
  site's answer; `cookies` are those that it sets.

Beside JMESPath's own functions there are `sha256(x)`, `lower(x)`, `parse_json(x)`,
`split(x, separator)`, `last(x)`, `url_path(x)`, `url_query(x)` and `jwt_claims(x)`
([what they do](signup-rules.md#functions)). What is
null or empty is left out of the lead. A sign-up without a
`customer_external_id` is kept as `rejected`, with that reason; the site's
answer passes all the same. More, with recipes and how to try a rule out:
[signup-rules.md](signup-rules.md).
"""


_PAGE_HOOKS: Final = f"""\
## Hooks

In the TOML file only. `[hooks.clerk]` and the others take `event`, `mode`, `quantity`
and `metadata` beside their `secret`, as a sign-up rule has them
([what for](hooks.md#say-more)). A `[[hook]]` makes leads of any other service's calls:

```toml
{HOOK_EXAMPLE}```

Its keys, and how to write one: [mapped-hooks.md](mapped-hooks.md). TOML allows either
`[hook]` or `[[hook]]` in one file: beside a `[[hook]]`, give `hook.secret` as
`RELAY_HOOK_SECRET`.
"""


def sample_toml() -> str:
    """Write relay.example.toml: every setting, commented out, with its help."""
    blocks = [_SAMPLE_HEAD]
    table = ""
    for setting in SETTINGS:
        above, _, key = setting.toml.rpartition(".")
        if above != table:
            blocks.append(f"[{above}]\n")
            table = above
        blocks.append("\n".join(_sample_lines(setting, key)) + "\n")
    rule = "".join(f"#{line}\n" for line in SIGNUP_EXAMPLE.splitlines())
    # With a blank: the two cannot both be uncommented, [hook] and [[hook]].
    hook = "".join(f"# {line}\n" for line in HOOK_EXAMPLE.splitlines())
    return "\n".join([*blocks, _SAMPLE_RULES + rule, _SAMPLE_HOOKS + hook])


def _sample_lines(setting: Setting, key: str) -> Iterator[str]:
    yield from _wrapped(f"{setting.help} {_names(setting)}", "# ", 88)
    value = setting.example if setting.default is None else setting.default
    yield f"#{key} = {json.dumps(value)}"


def _names(setting: Setting) -> str:
    """Say what holds without the setting, and name its twin in the environment."""
    if setting.required:
        return f"Required. ({setting.env})"
    unset = f"Unset: {setting.unset}. " if setting.unset else ""
    return f"{unset}({setting.env})"


def settings_markdown() -> str:
    """Write docs/settings.md: the table, what holds for all, the sign-up rules."""
    rows = "".join(_markdown_row(setting) for setting in SETTINGS)
    table = f"| environment | TOML | default | meaning |\n|---|---|---|---|\n{rows}"
    return f"{_PAGE_HEAD}\n{table}\n{_PAGE_NOTES}\n{_PAGE_RULES}\n{_PAGE_HOOKS}"


def _markdown_row(setting: Setting) -> str:
    default = _default(setting, code="`")
    secret = " *Secret.*" if setting.secret else ""
    help_text = setting.help.replace("|", "\\|")
    return f"| `{setting.env}` | `{setting.toml}` | {default} | {help_text}{secret} |\n"


def _default(setting: Setting, code: str = "") -> str:
    if setting.required:
        return "required"
    if setting.default is not None:
        return f"{code}{setting.default}{code}"
    return setting.unset or "none"


def settings_help() -> str:
    """List every setting for ``--help``, one after the other, 80 columns wide."""
    lines = [
        "Settings, in the environment or in the TOML file. Secrets may be given as",
        "files, with _FILE behind the name in the environment.",
        "",
    ]
    for setting in SETTINGS:
        lines.append(f"{setting.env}  {setting.toml}")
        lines += _wrapped(f"{setting.help} [{_default(setting)}]", "    ", 79)
    return "\n".join(lines)


def _wrapped(text: str, indent: str, width: int) -> list[str]:
    return textwrap.wrap(
        text,
        width,
        initial_indent=indent,
        subsequent_indent=indent,
        break_on_hyphens=False,
        break_long_words=False,
    )


def main() -> None:
    """Rewrite both files in the clone that this module was read from."""
    top = Path(__file__).resolve().parents[2]
    (top / "relay.example.toml").write_text(sample_toml(), "utf-8")
    (top / "docs" / "settings.md").write_text(settings_markdown(), "utf-8")


if __name__ == "__main__":
    main()
