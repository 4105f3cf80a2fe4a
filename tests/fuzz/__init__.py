"""Coverage-guided fuzzing of everything that takes text or bytes apart: `python -m tests.fuzz`."""
