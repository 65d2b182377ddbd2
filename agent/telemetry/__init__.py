"""What happened, in SQLite: schema, the one writer, the sampler, queries. May import types and errors."""
