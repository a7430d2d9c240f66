"""Processes, the build cache and progress: what is not about models."""
