"""Reports to an operator's webhook what needs a person, and when it is over."""
