"""Exams for every port, and fakes: shipped, so that a stranger's implementation can sit them.  Needs pytest."""
