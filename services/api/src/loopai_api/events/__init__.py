"""What happens to tasks, told as it happens."""
