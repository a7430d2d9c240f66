"""Checks of LiteRT's own: which operations the delegate takes."""
