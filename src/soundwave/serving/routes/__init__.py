"""What each address does, and how its answers are sent."""
