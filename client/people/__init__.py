"""What people see. Nothing is decided from it."""
