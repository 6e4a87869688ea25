"""Tells an operator's webhook of what needs a person, and when it is over."""
