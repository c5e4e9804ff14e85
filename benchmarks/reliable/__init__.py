"""What `benchmarks.reliability` is made of: adapters, faults, and a ledger that outlives both."""
