"""Keeps pytest from importing the generators, which need packages that tests do not."""

collect_ignore_glob = ["*/*.py"]
