// v1's POST /manufacturers/nox from v2, in njs.
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
    if (status === 401) {
        r.headersOut['WWW-Authenticate'] = 'ApiKey';
    }
    r.return(status, JSON.stringify(body));
}

function fail(r, status, code, text) {
    answer(r, status, {success: false, timestamp: now(), error: text, error_code: code, message: text});
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
    if (!r.variables.key) {
        return fail(r, 401, 'missing_api_key', 'Missing API key');
    }
    const user = parse(r.requestText);
    if (user === undefined) {
        return fail(r, 400, 'invalid_json', 'The body is not JSON');
    }
    if (!user || typeof user.manufacturer_user_id !== 'string') {
        return fail(r, 400, 'invalid_request', 'manufacturer_user_id is required and must be a string');
    }
    const options = {method: 'POST', body: JSON.stringify({user_id: user.manufacturer_user_id})};
    r.subrequest('/_v2', options, reply => translated(r, user, reply));
}

export default {connect};
