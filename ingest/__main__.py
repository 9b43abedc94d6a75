"""`python -m ingest`: run the ingest tier with settings from the environment."""

from __future__ import annotations

import logging
import sys

from ingest.admin.app import create_admin_app
from ingest.app import create_app
from ingest.settings import IngestSettings
from ticketwire.lifecycle import Lifecycle, run_tier, settle_gc
from ticketwire.serving import bind, http_server, port_of, uvicorn_config
from ticketwire.telemetry.exposition import serve_internal
from ticketwire.telemetry.health import Health

log = logging.getLogger(__name__)

# Connections the kernel keeps until we accept them: a fleet of clients reconnects at once after an outage.
_BACKLOG = 4_096


def main() -> int:
    """Run until SIGTERM; return the exit code."""
    return run_tier("ingest", IngestSettings, serve)


async def serve(settings: IngestSettings, lifecycle: Lifecycle) -> None:
    """Take messages until the lifecycle stops; then finish the requests that are under way."""
    health = Health("redis")
    bound = bind(settings.host, settings.port, "INGEST_PORT")
    admin_bound = bind(settings.admin_host, settings.admin_port, "INGEST_ADMIN_PORT")
    config = uvicorn_config(create_app(settings, health), backlog=_BACKLOG)
    async with (
        serve_internal(settings.internal_host, settings.internal_port, health) as internal_port,
        http_server(uvicorn_config(create_admin_app(settings)), admin_bound, lifecycle),
        http_server(config, bound, lifecycle),  # the last one in is the first to drain: senders before admins
    ):
        settle_gc()
        ports = {"port": port_of(bound), "admin_port": port_of(admin_bound), "internal_port": internal_port}
        log.info("serving", extra=ports)
        await lifecycle.stopping.wait()
        health.draining = True


if __name__ == "__main__":
    sys.exit(main())
