"""Whet: sharpens trained models into CPU services."""

__version__ = "0.1.0"
