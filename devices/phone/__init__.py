"""Phones behind adb: found, described, and measured with LiteRT's own tool."""
