"""HTTP/1.1 over asyncio: bodies read into place, connections that can move between processes. Imports no numpy."""
