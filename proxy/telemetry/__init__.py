"""What was seen of the requests: one Exchange record each, and the sinks that only read it.

    Exchange ─→ Telemetry ─┬─→ Metrics ─→ Block ─→ Scrape ─→ /metrics, overview.py
                           ├─→ access log
                           └─→ Spans, where OpenTelemetry is installed and configured

Each worker writes its own Block; the admin side reads them all.
"""
