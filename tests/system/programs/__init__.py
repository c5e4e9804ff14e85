"""Small programs as users write them, which the tests run as processes."""
