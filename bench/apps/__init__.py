"""What the measured processes run: the same actor, declared for each of the compared systems."""
