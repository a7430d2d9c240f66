"""The worker processes of this one: which run, what they hold, what they print."""
