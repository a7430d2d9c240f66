"""Worker processes, the build cache and progress reports: independent of models."""
