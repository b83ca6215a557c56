"""Formats: a row as it lies on disk -> Document, by pure functions."""
