"""Run a library's program and kernels on this computer."""
