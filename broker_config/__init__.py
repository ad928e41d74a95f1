"""Brokers: the embedded one, and configuration for mosquitto."""
