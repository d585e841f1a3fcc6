"""Who is there and what is free, and the pages that one turn shares."""
