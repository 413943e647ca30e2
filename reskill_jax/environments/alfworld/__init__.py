"""ALFWorld: the fast engine, the house builder, the expert, the rule table."""
