"""Places where artifacts run: one module for each way to reach one."""
