"""The dashboard: pages over the outbox, for the operator.

It reads what the CLI reads and does what the CLI does; it holds nothing of its
own. Without a password there is none.
"""
