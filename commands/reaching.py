"""How commands reach a cluster."""

HOW_TO_REACH = (
    "Name one with --address tls://host:port or RACT_ADDRESS; its join token must be in RACT_TOKEN "
    "or ~/.ract/token. To start one here: rscheduler, then rworker tls://127.0.0.1:8786."
)
