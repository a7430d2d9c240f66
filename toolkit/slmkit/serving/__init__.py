"""A server for clients of OpenAI's interface."""
