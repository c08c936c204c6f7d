"""Feature files in the layouts that other programs read: one module a family of formats, one table, one engine."""
