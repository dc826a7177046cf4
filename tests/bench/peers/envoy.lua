-- v1's POST /manufacturers/nox from v2, in Envoy's Lua. It has no JSON, so a small reader and writer come first.
local byte, find, sub, gsub, char, lower = string.byte, string.find, string.sub, string.gsub, string.char, string.lower
local concat, format, floor, tonumber, type = table.concat, string.format, math.floor, tonumber, type

local ESCAPES = {['"'] = '"', ["\\"] = "\\", ["/"] = "/", b = "\b", f = "\f", n = "\n", r = "\r", t = "\t"}
local QUOTED = {['"'] = '\\"', ["\\"] = "\\\\", ["\b"] = "\\b", ["\f"] = "\\f", ["\n"] = "\\n", ["\r"] = "\\r",
    ["\t"] = "\\t"}

local function utf8_of(code)
    if code < 0x80 then return char(code) end
    if code < 0x800 then return char(0xC0 + floor(code / 0x40), 0x80 + code % 0x40) end
    if code < 0x10000 then
        return char(0xE0 + floor(code / 0x1000), 0x80 + floor(code / 0x40) % 0x40, 0x80 + code % 0x40)
    end
    return char(0xF0 + floor(code / 0x40000), 0x80 + floor(code / 0x1000) % 0x40, 0x80 + floor(code / 0x40) % 0x40,
        0x80 + code % 0x40)
end

local function unescape(text)
    text = gsub(text, "\\u([dD][89abAB]%x%x)\\u([dD][c-fC-F]%x%x)", function(high, low)
        return utf8_of(0x10000 + (tonumber(high, 16) - 0xD800) * 0x400 + tonumber(low, 16) - 0xDC00)
    end)
    return (gsub(text, "\\(.)(%x?%x?%x?%x?)", function(kind, digits)
        if kind == "u" then return utf8_of(tonumber(digits, 16)) end
        return (ESCAPES[kind] or error("escape")) .. digits
    end))
end

local function quote(text)
    if not find(text, '[%c"\\]') then return '"' .. text .. '"' end
    return '"' .. gsub(text, '[%c"\\]', function(c) return QUOTED[c] or format("\\u%04x", byte(c)) end) .. '"'
end

local read_value

local function read_string(text, at)
    local from = at + 1
    local stop = find(text, '["\\]', from)
    if not stop then error("string") end
    if byte(text, stop) == 34 then return sub(text, from, stop - 1), stop + 1 end
    while byte(text, stop) == 92 do
        stop = find(text, '["\\]', stop + 2)
        if not stop then error("string") end
    end
    return unescape(sub(text, from, stop - 1)), stop + 1
end

local function skip(text, at)
    local c = byte(text, at)
    if c == 32 or c == 10 or c == 13 or c == 9 then return find(text, "[^ \n\r\t]", at) or #text + 1 end
    return at
end

local function read_array(text, at)
    local values, count = {}, 0
    at = skip(text, at + 1)
    if byte(text, at) == 93 then return values, at + 1 end
    while true do
        count = count + 1
        values[count], at = read_value(text, at)
        at = skip(text, at)
        local c = byte(text, at)
        if c == 93 then return values, at + 1 end
        if c ~= 44 then error("array") end
        at = skip(text, at + 1)
    end
end

local function read_object(text, at)
    local values, name = {}, nil
    at = skip(text, at + 1)
    if byte(text, at) == 125 then return values, at + 1 end
    while true do
        if byte(text, at) ~= 34 then error("name") end
        name, at = read_string(text, at)
        at = skip(text, at)
        if byte(text, at) ~= 58 then error("colon") end
        values[name], at = read_value(text, skip(text, at + 1))
        at = skip(text, at)
        local c = byte(text, at)
        if c == 125 then return values, at + 1 end
        if c ~= 44 then error("object") end
        at = skip(text, at + 1)
    end
end

local WORDS = {["true"] = true, ["false"] = false, ["null"] = false}

function read_value(text, at)
    local c = byte(text, at)
    if c == 34 then return read_string(text, at) end
    if c == 91 then return read_array(text, at) end
    if c == 123 then return read_object(text, at) end
    local _, stop = find(text, "^[%w.+-]+", at)
    local word = sub(text, at, stop or at)
    local value = WORDS[word]
    if value == nil then value = tonumber(word) end
    if value == nil then error("value") end
    return value, stop + 1
end

local function decode(text)
    local ok, value, at = pcall(read_value, text, skip(text, 1))
    if ok and skip(text, at) > #text then return value end
end

local function encode_strings(values)
    local quoted = {}
    for i = 1, #values do quoted[i] = quote(values[i]) end
    return "[" .. concat(quoted, ",") .. "]"
end

local CODES = {["Invalid API key"] = "invalid_api_key", ["Missing API key"] = "missing_api_key"}
local BY_STATUS = {["400"] = "invalid_request", ["401"] = "unauthorized", ["403"] = "forbidden",
    ["429"] = "rate_limited", ["500"] = "internal_server_error", ["502"] = "bad_gateway",
    ["503"] = "service_unavailable", ["504"] = "gateway_timeout"}

local function failure(code, text)
    text = quote(text)
    return '{"success":false,"timestamp":' .. os.time() .. ',"error":' .. text .. ',"error_code":"' .. code ..
        '","message":' .. text .. "}"
end

local function refuse(handle, status, code, text)
    handle:respond({[":status"] = status, ["content-type"] = "application/json"}, failure(code, text))
end

local function key_of(headers)
    local key = headers:get("x-api-key")
    if key and key ~= "" then return key end
    local authorization = headers:get("authorization")
    if authorization and lower(sub(authorization, 1, 7)) == "apikey " then return sub(authorization, 8) end
end

function envoy_on_request(handle)
    local headers = handle:headers()
    if headers:get(":method") ~= "POST" then
        return refuse(handle, "405", "method_not_allowed", "Method not allowed")
    end
    local key = key_of(headers)
    if not key then return refuse(handle, "401", "missing_api_key", "Missing API key") end
    local body = handle:body()
    local asked = body and decode(body:getBytes(0, body:length()))
    if asked == nil then return refuse(handle, "400", "invalid_json", "The body is not JSON") end
    local user = type(asked) == "table" and asked.manufacturer_user_id
    if type(user) ~= "string" then
        return refuse(handle, "400", "invalid_request", "manufacturer_user_id is required and must be a string")
    end
    local ids = asked.device_ids
    if type(ids) == "table" and #ids > 0 then
        handle:streamInfo():dynamicMetadata():set("nox", "device_ids", encode_strings(ids))
    end
    headers = handle:headers()  -- the first ones are gone once body() has waited
    headers:replace("x-api-key", key)
    headers:remove("authorization")
    headers:replace("content-length", body:setBytes('{"user_id":' .. quote(user) .. "}"))
end

local function translate(handle, status, told)
    if status < "300" then
        local metadata = handle:streamInfo():dynamicMetadata():get("nox")
        local ids = metadata and metadata.device_ids
        if ids then handle:headers():add("nox-unmapped", "device_ids") end
        return '{"success":true,"timestamp":' .. os.time() .. ',"data":{"manufacturer_user_id":' ..
            quote(told.manufacturer_user_id) .. ',"nox_user_id":' .. quote(told.nox_user_id) .. ',"device_ids":' ..
            (ids or "[]") .. "}}"
    end
    local text = type(told.error) == "string" and told.error or "Upstream error"
    if status == "401" then handle:headers():add("www-authenticate", "ApiKey") end
    return failure(CODES[text] or BY_STATUS[status] or "upstream_error",
        (gsub(text, "%f[%w_]user_id%f[^%w_]", "manufacturer_user_id")))
end

function envoy_on_response(handle)
    local body = handle:body()
    local headers = handle:headers()
    local told = body and decode(body:getBytes(0, body:length()))
    local said = translate(handle, headers:get(":status"), type(told) == "table" and told or {})
    headers:replace("content-length", body:setBytes(said))
    headers:replace("content-type", "application/json")
end
