"""What methods are built from. Nothing here is a method, and nothing knows any."""
