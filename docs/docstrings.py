"""Brings the docstrings of the package to the form that the site's tools know."""

import griffe


class Docstrings(griffe.Extension):
    """Names the section of examples as griffe does; ``::`` before formulas is ``:``."""

    def on_instance(self, *, obj: griffe.Object, **_: object) -> None:
        """Changes the docstring of an object, if it has one.

        Args:
          obj: Module, class, function or attribute.
        """
        if obj.docstring is not None:
            text = obj.docstring.value.replace("\nExample:\n", "\nExamples:\n")
            obj.docstring.value = text.replace("::\n\n", ":\n\n")
