"""Checks of a library: its program and its kernels run on this machine."""
