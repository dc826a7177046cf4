// v1's POST /manufacturers/nox from v2, in njs.
const LINK = '<https://docs.nox.energy>; rel="deprecation"; type="text/html", ' +
    '<http://@V2@/v2/manufacturer/device-connections>; rel="successor-version"';
const CODES = {
    'Invalid API key': 'invalid_api_key',
    'Missing API key': 'missing_api_key',
};
const BY_STATUS = {400: 'invalid_request', 401: 'unauthorized', 403: 'forbidden', 429: 'rate_limited',
    500: 'internal_server_error', 502: 'bad_gateway', 503: 'service_unavailable', 504: 'gateway_timeout'};

function now() {
    return Math.floor(Date.now() / 1000);
}

function answer(r, status, body) {
    const out = r.headersOut;
    out['Content-Type'] = 'application/json';
    out['X-Request-ID'] = r.variables.id;
    out['Via'] = '1.1 nox-proxy';
    out['Deprecation'] = '@1767225600';
    out['Sunset'] = 'Wed, 30 Jun 2027 23:59:59 GMT';
    out['Link'] = LINK;
    if (status === 401) {
        out['WWW-Authenticate'] = 'ApiKey';
    }
    r.return(status, JSON.stringify(body));
}

function fail(r, status, code, text) {
    answer(r, status, {success: false, timestamp: now(), error: text, error_code: code, message: text});
}

function keyOf(headers) {
    const key = headers['x-api-key'];
    if (key) {
        return key;
    }
    const authorization = headers['Authorization'];
    return authorization && authorization.slice(0, 7).toLowerCase() === 'apikey ' ? authorization.slice(7).trim() : '';
}

function parse(text) {
    try {
        return JSON.parse(text);
    } catch (e) {
        return undefined;
    }
}

function translated(r, user, reply) {
    const told = parse(reply.responseText);
    if (reply.status < 300) {
        if (!told || typeof told.manufacturer_user_id !== 'string' || typeof told.nox_user_id !== 'string') {
            return fail(r, 502, 'invalid_upstream_response', 'Invalid upstream response');
        }
        if (user.device_ids && user.device_ids.length) {
            r.headersOut['NOX-Unmapped'] = 'device_ids';
        }
        return answer(r, 201, {success: true, timestamp: now(), data: {
            manufacturer_user_id: told.manufacturer_user_id,
            nox_user_id: told.nox_user_id,
            device_ids: user.device_ids || [],
        }});
    }
    const text = told && typeof told.error === 'string' ? told.error : 'Upstream error';
    const code = CODES[text] || BY_STATUS[reply.status] || 'upstream_error';
    fail(r, reply.status, code, text.replace(/\buser_id\b/g, 'manufacturer_user_id'));
}

function connect(r) {
    if (r.method !== 'POST') {
        return fail(r, 405, 'method_not_allowed', 'Method not allowed');
    }
    const key = keyOf(r.headersIn);
    if (!key) {
        return fail(r, 401, 'missing_api_key', 'Missing API key');
    }
    const user = parse(r.requestText);
    if (user === undefined) {
        return fail(r, 400, 'invalid_json', 'The body is not JSON');
    }
    if (!user || typeof user.manufacturer_user_id !== 'string') {
        return fail(r, 400, 'invalid_request', 'manufacturer_user_id is required and must be a string');
    }
    r.variables.key = key;
    const options = {method: 'POST', body: JSON.stringify({user_id: user.manufacturer_user_id})};
    r.subrequest('/_v2', options, reply => translated(r, user, reply));
}

export default {connect};
