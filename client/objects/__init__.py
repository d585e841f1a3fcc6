"""What a ref is, who holds it, and where its value lies."""
