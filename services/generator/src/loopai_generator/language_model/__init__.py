"""A language model as the one who writes programs: what it is asked, and what is taken from its answer."""
