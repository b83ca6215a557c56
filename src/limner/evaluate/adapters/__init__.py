"""Other people's suites of tasks, asked of our models."""
