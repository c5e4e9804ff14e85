"""For those who test tasks, and those who write drivers."""
