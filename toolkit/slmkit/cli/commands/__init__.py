"""Commands, a file for each family: parse, call one function of the public API, print."""
