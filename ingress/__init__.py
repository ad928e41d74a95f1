"""Plain MQTT devices: their messages in, a pipeline's answers out (protocol rule 25)."""
