"""Room that is reserved, given up or asked for."""
