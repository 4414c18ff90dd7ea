"""Coverage-guided fuzzing of what reads a stranger's bytes. ``python -m tests.fuzz --seconds 20`` runs every target."""
