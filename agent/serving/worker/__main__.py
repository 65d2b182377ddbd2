"""A worker process that starts cold: ``python -m agent.serving.worker FD``, FD being its end of the channel."""

from __future__ import annotations

import socket
import sys

from agent.serving.processes.prctl import die_with_parent
from agent.serving.worker.service import serve

die_with_parent()
serve(socket.socket(fileno=int(sys.argv[1])))
