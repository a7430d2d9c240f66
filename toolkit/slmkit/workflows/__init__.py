"""One module per verb of the public API: build, estimate, inspect, recheck, compare layers."""
