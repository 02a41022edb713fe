"""Coverage-guided fuzzing: `make fuzz SECONDS=600`, see `tests.fuzz.__main__`."""
