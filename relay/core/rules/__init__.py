"""Sign-up rules: what a request and its response say about a new customer."""
