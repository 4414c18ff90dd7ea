"""One module a technology; only the composition root imports them."""
