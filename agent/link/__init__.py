"""MQTT: topics, messages, the client, the outbox and the transfer of blocks. May import trust, types and errors."""
