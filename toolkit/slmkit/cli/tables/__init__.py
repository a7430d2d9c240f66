"""What the commands show: a file of tables for each thing."""
