"""The dashboard: pages over the outbox, for whoever runs the relay.

It reads what the CLI reads and does what the CLI does; it holds nothing of its
own. Without a password there is none.
"""
