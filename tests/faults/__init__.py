"""Real servers, real worker processes, and what happens when they break."""
