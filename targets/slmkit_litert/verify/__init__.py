"""Checks of the written artifact: which operations XNNPACK takes."""
