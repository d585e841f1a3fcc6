"""Where something could run. Takes nothing for good."""
