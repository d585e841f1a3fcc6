"""A tracing hook: ``ract.util.tracing.setup_local_tmp_tracing:setup_tracing``."""

from __future__ import annotations

import atexit
import os

from ract.core.session import root_folder


def setup_tracing() -> None:
    """Append each span of this process, as JSON, to ``<root folder>/spans/<pid>.txt``.

    The root folder is ``$RACT_TMPDIR``, or ``/tmp/ract-<uid>``.

    Raises:
        ImportError: OpenTelemetry's SDK is not installed.
    """
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

    folder = root_folder() / "spans"
    folder.mkdir(mode=0o700, exist_ok=True)
    file = (folder / f"{os.getpid()}.txt").open("a")  # as long as the process
    atexit.register(file.close)  # when the provider, which registers later, has written its last
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(out=file)))
    trace.set_tracer_provider(provider)
