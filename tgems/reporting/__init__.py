"""Tables and figures from evaluated parts: no model, no data set."""
