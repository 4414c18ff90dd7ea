"""Load that a whole deployment is put under: by k6 (``k6/``) or by ``python -m tests.load``, the same scenarios."""
