"""Every answer that the proxy itself gives instead of v2's, as one tree of errors.

    ProxyError                          status  error_code                    Proxy-Status (RFC 9209)
    ├── CallerError                                                           http_request_error
    │   ├── MalformedMessage            400     bad_request
    │   ├── ExpectationFailed           417     expectation_failed
    │   ├── HeadersTooLarge             431     request_header_fields_too_large
    │   ├── RequestTimeout              408     request_timeout
    │   ├── TooManyConnections          503     too_many_connections          connection_limit_reached
    │   ├── NotFound                    404     not_found
    │   ├── AmbiguousPath               400     ambiguous_path
    │   ├── MethodNotAllowed            405     method_not_allowed
    │   ├── CredentialError             401
    │   │   ├── MissingApiKey                   missing_api_key
    │   │   ├── ConflictingApiKeys              conflicting_api_keys
    │   │   └── InvalidApiKey                   invalid_api_key
    │   ├── EndpointGone                410                                   http_request_denied
    │   │   ├── EndpointSunset                  endpoint_sunset
    │   │   └── EndpointBrownout                endpoint_brownout
    │   ├── PayloadTooLarge             413     payload_too_large
    │   ├── UnsupportedMediaType        415     unsupported_media_type
    │   ├── InvalidJson                 400     invalid_json
    │   ├── InvalidRequest              400     invalid_request
    │   ├── UnmappedFieldRefused        400     <field>_unsupported
    │   └── CallerGone                  499     client_closed_request
    ├── UpstreamError
    │   ├── UpstreamUnavailable         502     upstream_unavailable          by its cause
    │   ├── UpstreamDisconnected        502     upstream_disconnected         connection_terminated
    │   ├── InvalidUpstreamResponse     502     invalid_upstream_response     by its cause
    │   ├── UpstreamTimeout             504     upstream_timeout              http_response_timeout
    │   │   └── UpstreamConnectTimeout          upstream_timeout              connection_timeout
    │   └── UpstreamOverloaded          503     upstream_overloaded           connection_limit_reached
    │       └── BreakerOpen                     upstream_overloaded           destination_unavailable
    ├── ProxyLoopDetected               502     proxy_loop_detected           proxy_loop_detected
    ├── ShuttingDown                    503     service_unavailable           proxy_internal_error
    └── InternalError                   500     internal_server_error         proxy_internal_error

The rows are those of the contract's "Admission" and "From v2". No message holds a caller's value.
"""

from typing import ClassVar, Literal

from proxy.contract.messages import Field


class ProxyError(Exception):
    """An answer of ours. `text` goes out as v1's `error` and `message`."""

    status: ClassVar[int]
    error_code: str
    text: str
    reason: str
    """The error's type in `Proxy-Status`, and its reason on the metrics."""
    fields: tuple[Field, ...] = ()
    """Header lines that belong to the status."""
    closes: ClassVar[bool] = False
    """True where the caller's message cannot be told from what may follow it."""

    def __init__(self, text: str | None = None, *, reason: str | None = None) -> None:
        self.text = text or self.text
        self.reason = reason or self.reason
        super().__init__(self.text)


class CallerError(ProxyError):
    """The caller's to mend."""

    reason = "http_request_error"


class MalformedMessage(CallerError):
    """Admission 1: not the HTTP that RFC 9112 describes."""

    status, error_code, text, closes = 400, "bad_request", "Malformed HTTP request", True


class ExpectationFailed(CallerError):
    """Admission 1: an Expect of something else than 100-continue (RFC 9110, section 10.1.1)."""

    status, error_code, text, closes = 417, "expectation_failed", "Expectation failed", True


class HeadersTooLarge(CallerError):
    """Admission 1: the header block exceeds `max_header_bytes`."""

    status, error_code = 431, "request_header_fields_too_large"
    text, closes = "Request header fields too large", True


Part = Literal["header", "body"]
"""Of a request."""


class RequestTimeout(CallerError):
    """The head was not whole within `header_timeout`, or the body within `body_timeout` (RFC 9110, section 15.5.9)."""

    status, error_code, closes = 408, "request_timeout", True

    def __init__(self, part: Part) -> None:
        self.part = part
        super().__init__(f"Request {part} was not whole in time")


class TooManyConnections(CallerError):
    """There are more connections than `max_connections`."""

    status, error_code, text, closes = 503, "too_many_connections", "Too many connections, try again later", True
    reason, fields = "connection_limit_reached", ((b"retry-after", b"1"),)


class NotFound(CallerError):
    """Admission 2."""

    status, error_code, text = 404, "not_found", "Not found"


class AmbiguousPath(CallerError):
    """A path with dot segments, which would lead elsewhere than it says. Of calls that pass untouched."""

    status, error_code, text = 400, "ambiguous_path", "The path has dot segments"


class MethodNotAllowed(CallerError):
    """Admission 3."""

    status, error_code, text = 405, "method_not_allowed", "Method not allowed"
    fields = ((b"allow", b"POST"),)


class CredentialError(CallerError):
    """Admission 5 to 7. Every 401 names the scheme (RFC 9110, section 11.6.1)."""

    status = 401
    fields = ((b"www-authenticate", b"ApiKey"),)


class MissingApiKey(CredentialError):
    """Admission 5."""

    error_code, text = "missing_api_key", "Missing API key"


class ConflictingApiKeys(CredentialError):
    """Admission 6."""

    error_code, text = "conflicting_api_keys", "Conflicting API keys"


class InvalidApiKey(CredentialError):
    """Admission 7."""

    error_code, text = "invalid_api_key", "Invalid API key"


class EndpointGone(CallerError):
    """Admission 8: the deprecated endpoint's schedule refuses the call."""

    status, reason = 410, "http_request_denied"


class EndpointSunset(EndpointGone):
    """Switched off for good."""

    error_code, text = "endpoint_sunset", "This endpoint is switched off; the Link header names its successor"


class EndpointBrownout(EndpointGone):
    """Switched off for `seconds` more, as a warning of the end."""

    error_code = "endpoint_brownout"
    text = "This endpoint is deprecated and switched off for a while; the Link header names its successor"

    def __init__(self, seconds: int) -> None:
        self.fields = ((b"retry-after", b"%d" % seconds),)
        super().__init__()


class PayloadTooLarge(CallerError):
    """Admission 9."""

    status, error_code, text = 413, "payload_too_large", "Request body too large"


class UnsupportedMediaType(CallerError):
    """Admission 10 and 11."""

    status, error_code, text = 415, "unsupported_media_type", "Content-Type must be application/json"


class InvalidJson(CallerError):
    """Admission 12."""

    status, error_code, text = 400, "invalid_json", "Request body is not valid JSON"


class InvalidRequest(CallerError):
    """Admission 13."""

    status, error_code, text = 400, "invalid_request", "Request body must be a JSON object"


class UnmappedFieldRefused(CallerError):
    """Admission 14: v2 has no room for `field`, and the settings refuse it."""

    status = 400

    def __init__(self, field: str) -> None:
        self.error_code = f"{field}_unsupported"
        super().__init__(f"{field} is no longer supported")


class CallerGone(CallerError):
    """The caller left before its body was whole. Nobody reads this answer; 499 is nginx's number for it."""

    status, error_code, text, closes = 499, "client_closed_request", "Client closed the request", True


class UpstreamError(ProxyError):
    """The upstream's fault, or that of the way to it."""

    not_sent: ClassVar[bool] = False
    """True where the upstream provably took nothing of the call, so that another may have it."""


class UpstreamUnavailable(UpstreamError):
    """Refused, unresolved or TLS not verified: the upstream took nothing of the call."""

    status, error_code, text = 502, "upstream_unavailable", "Upstream unavailable"
    reason, not_sent = "destination_unavailable", True


class UpstreamDisconnected(UpstreamError):
    """Closed or broken off before the whole answer: whether the call took effect is not known."""

    status, error_code, text = 502, "upstream_disconnected", "Upstream closed the connection before it answered"
    reason = "connection_terminated"


class InvalidUpstreamResponse(UpstreamError):
    """An answer that cannot be handed on."""

    status, error_code, text = 502, "invalid_upstream_response", "Upstream sent an invalid response"
    reason = "http_protocol_error"


class UpstreamTimeout(UpstreamError):
    """No whole answer within the deadline."""

    status, error_code, text = 504, "upstream_timeout", "Upstream did not answer in time"
    reason = "http_response_timeout"


class UpstreamConnectTimeout(UpstreamTimeout):
    """No connection was made in time: the upstream took nothing of the call."""

    reason, not_sent = "connection_timeout", True


class UpstreamOverloaded(UpstreamError):
    """No connection came free in time: the upstream took nothing of the call."""

    status, error_code, text = 503, "upstream_overloaded", "Upstream is overloaded, try again later"
    reason, not_sent = "connection_limit_reached", True
    fields = ((b"retry-after", b"1"),)


class BreakerOpen(UpstreamOverloaded):
    """The upstream failed so often that it is not asked for some `seconds`."""

    reason = "breaker_open"

    def __init__(self, seconds: int) -> None:
        self.fields = ((b"retry-after", b"%d" % seconds),)
        super().__init__()


class ProxyLoopDetected(ProxyError):
    """Admission 4: the proxy was pointed at itself."""

    status, error_code, text = 502, "proxy_loop_detected", "Proxy loop detected"
    reason = "proxy_loop_detected"


class ShuttingDown(ProxyError):
    """The drain ran out of time with this call in flight: whether it took effect is not known."""

    status, error_code, text = 503, "service_unavailable", "Service is restarting, try again"
    reason = "proxy_internal_error"
    fields, closes = ((b"retry-after", b"1"),), True


class InternalError(ProxyError):
    """A bug of ours."""

    status, error_code, text = 500, "internal_server_error", "Internal server error"
    reason = "proxy_internal_error"
