"""What lives, where it lies, and who keeps it alive."""
