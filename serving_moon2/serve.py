"""The command `serve`: its options, and how the service starts and stops."""

import os
import signal
import socket

from common_moon2.cli import UserError
from serving_moon2.arguments import ServeArguments


def serve(arguments: ServeArguments) -> dict:
    """Serve until SIGINT or SIGTERM; requests that have arrived are still answered.

    Raises:
        ValueError, OSError: an option is out of range, there is no such model or device, or the port is taken.
    """
    socket.create_server((arguments.host, arguments.port)).close()  # LitServe would say it after the model is loaded
    from serving_moon2.service import build_server

    server, own = build_server(arguments), os.getpid()

    def stop(*_) -> None:
        if os.getpid() == own:  # the processes of LitServe inherit this, and are ended by LitServe
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    address = f"http://{arguments.host}:{arguments.port}/embed"
    print(f"Loading {arguments.model}; then POST {address}", flush=True)
    try:
        server.run(arguments.host, arguments.port, 1, log_level="warning", generate_client_file=False)
    except (RuntimeError, EOFError) as error:
        raise UserError("The process with the model has ended; the log above says why.") from error
    return {"model": arguments.model, "address": address}
