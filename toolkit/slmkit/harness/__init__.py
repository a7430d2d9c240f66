"""Run tasks of EleutherAI's lm-evaluation-harness on an artifact, offline."""
