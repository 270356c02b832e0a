"""milliseek: neural architecture search that knows how many milliseconds your device needs."""

__version__ = "0.1.0"
