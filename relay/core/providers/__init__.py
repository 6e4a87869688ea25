"""Providers whose own hooks become leads: one table, a row each.

A row knows how the provider signs and what its payload means; the rest (ways of
the click, answers, settings, docs) is the same for all.
"""

from __future__ import annotations

from typing import Final

from relay.core import signing
from relay.core.providers import accounts, schemes, stripe
from relay.core.providers.account import Provider

_WHSEC: Final = "whsec_bm90IGEgc2VjcmV0LCBidXQgYW4gZXhhbXBsZQ=="
_LIST: Final = " A comma-separated list while it is changed: all verify."

PROVIDERS: Final = (
    Provider(
        name="clerk",
        title="Clerk",
        secrets=signing.parse_webhook_secrets,
        verify=schemes.svix,
        read=accounts.clerk,
        example=_WHSEC,
        help="Turns on hooks/clerk: the signing secret of Clerk's endpoint." + _LIST,
    ),
    Provider(
        name="supabase",
        title="Supabase",
        secrets=signing.parse_webhook_secrets,
        verify=schemes.standard,
        read=accounts.supabase,
        example=f"v1,{_WHSEC}",
        help="Turns on hooks/supabase: the secret of the auth hook, v1,whsec_…" + _LIST,
        blocking=True,
    ),
    Provider(
        name="auth0",
        title="Auth0",
        secrets=signing.parse_webhook_secrets,
        verify=schemes.standard,
        read=accounts.auth0,
        example=_WHSEC,
        help="Turns on hooks/auth0: the secret given to the Action." + _LIST,
    ),
    Provider(
        name="workos",
        title="WorkOS",
        secrets=schemes.text_secrets,
        verify=schemes.workos,
        read=accounts.workos,
        example="the-secret-of-the-endpoint",
        help="Turns on hooks/workos: the secret of WorkOS's endpoint." + _LIST,
    ),
    Provider(
        name="stytch",
        title="Stytch",
        secrets=signing.parse_webhook_secrets,
        verify=schemes.svix,
        read=accounts.stytch,
        example=_WHSEC,
        help="Turns on hooks/stytch: the signing secret of Stytch's endpoint." + _LIST,
    ),
    Provider(
        name="firebase",
        title="Firebase",
        secrets=signing.parse_webhook_secrets,
        verify=schemes.standard,
        read=accounts.firebase,
        example=_WHSEC,
        help="Turns on hooks/firebase: the secret given to the function." + _LIST,
    ),
    Provider(
        name="stripe",
        title="Stripe",
        secrets=schemes.stripe_secrets,
        verify=schemes.stripe,
        read=stripe.stripe,
        example="whsec_the_signing_secret",
        help="Turns on hooks/stripe: the signing secret of Stripe's endpoint." + _LIST,
    ),
)
