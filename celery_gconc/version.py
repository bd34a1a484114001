"""The version of the package: here, where it is known also where the package runs from a checkout."""

__version__ = "0.1.0"
