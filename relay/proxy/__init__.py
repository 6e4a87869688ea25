"""The reverse proxy: between visitors and the site, and what becomes of sign-ups."""
