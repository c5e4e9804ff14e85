"""Small programs that use asyncq. Each says how to run it."""
