"""asyncq inside of other frameworks, without depending on them."""
