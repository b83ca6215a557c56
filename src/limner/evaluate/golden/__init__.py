"""Recorded cases of other implementations, run against this one: `limner verify`."""
