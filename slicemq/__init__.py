"""The contract of SliceMQ: what travels over MQTT, and how to ask for an inference."""
