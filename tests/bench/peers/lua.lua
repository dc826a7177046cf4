-- v1's POST /manufacturers/nox from v2, in the Lua of nginx.
local cjson = require "cjson.safe"
local decode, encode = cjson.decode, cjson.encode
local ngx, type, gsub = ngx, type, string.gsub
local concat = table.concat

local CODES = {["Invalid API key"] = "invalid_api_key", ["Missing API key"] = "missing_api_key"}
local BY_STATUS = {[400] = "invalid_request", [401] = "unauthorized", [403] = "forbidden", [429] = "rate_limited",
    [500] = "internal_server_error", [502] = "bad_gateway", [503] = "service_unavailable", [504] = "gateway_timeout"}

local nox = {}

local function failure(code, text)
    text = encode(text)
    return '{"success":false,"timestamp":' .. ngx.time() .. ',"error":' .. text .. ',"error_code":"' .. code ..
        '","message":' .. text .. '}'
end

local function fail(status, code, text)
    ngx.status = status
    ngx.ctx.refused = true
    ngx.print(failure(code, text))
    return ngx.exit(status)
end

function nox.ask()
    local var = ngx.var
    if ngx.req.get_method() ~= "POST" then
        return fail(405, "method_not_allowed", "Method not allowed")
    end
    if var.key == "" then
        return fail(401, "missing_api_key", "Missing API key")
    end
    ngx.req.read_body()
    local user = decode(ngx.req.get_body_data() or "")
    if user == nil then
        return fail(400, "invalid_json", "The body is not JSON")
    end
    if type(user) ~= "table" or type(user.manufacturer_user_id) ~= "string" then
        return fail(400, "invalid_request", "manufacturer_user_id is required and must be a string")
    end
    local ids = user.device_ids
    if type(ids) == "table" and ids[1] ~= nil then
        ngx.ctx.ids = ids
    end
    var.asked = '{"user_id":' .. encode(user.manufacturer_user_id) .. '}'
end

function nox.head()
    local header, ctx, status = ngx.header, ngx.ctx, ngx.status
    header["Content-Length"] = nil
    if status >= 300 then
        header["Content-Type"] = "application/json"
        if status == 401 then
            header["WWW-Authenticate"] = "ApiKey"
        end
    end
    if ctx.ids then
        header["NOX-Unmapped"] = "device_ids"
    end
end

local function translate(body, ctx)
    local told, status = decode(body), ngx.status
    if type(told) ~= "table" then
        told = {}
    end
    if status < 300 then
        return concat {
            '{"success":true,"timestamp":', ngx.time(),
            ',"data":{"manufacturer_user_id":', encode(told.manufacturer_user_id),
            ',"nox_user_id":', encode(told.nox_user_id),
            ',"device_ids":', ctx.ids and encode(ctx.ids) or "[]", '}}',
        }
    end
    local text = type(told.error) == "string" and told.error or "Upstream error"
    local code = CODES[text] or BY_STATUS[status] or "upstream_error"
    return failure(code, gsub(text, "%f[%w_]user_id%f[^%w_]", "manufacturer_user_id"))
end

function nox.body()
    local ctx, arg = ngx.ctx, ngx.arg
    if ctx.refused then
        return
    end
    local piece, last = arg[1], arg[2]
    if not last then
        ctx.pieces = (ctx.pieces or "") .. piece
        arg[1] = nil
        return
    end
    arg[1] = translate((ctx.pieces or "") .. piece, ctx)
end

return nox
