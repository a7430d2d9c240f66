"""The tables that commands show: a file for each thing."""
