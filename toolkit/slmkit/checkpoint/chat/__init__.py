"""Chat templates: golden conversations, and a form that every runtime's Jinja renders alike."""
