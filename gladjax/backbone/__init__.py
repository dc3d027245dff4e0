"""gladjax."""
