"""Pure functions from replies and pictures to scores."""
