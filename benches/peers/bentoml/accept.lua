-- Posts one body again and again. Arguments after `--`: the body, and the status of a good answer. Prints one line of JSON.
local threads = {}

function setup(thread)
    table.insert(threads, thread)
end

function init(arguments)
    wrk.method = "POST"
    wrk.body = arguments[1]
    wrk.headers["content-type"] = "application/json"
    wanted = tonumber(arguments[2])
    good, bad, seen = 0, 0, 0
    request_bytes = wrk.format()
end

function request()
    return request_bytes
end

function response(status)
    if status == wanted then
        good = good + 1
    else
        bad = bad + 1
        seen = status
    end
end

function done(summary, latency)
    local all, wrong, last = 0, 0, 0
    for _, thread in ipairs(threads) do
        all = all + thread:get("good")
        wrong = wrong + thread:get("bad")
        last = math.max(last, thread:get("seen"))
    end
    local errors = summary.errors
    io.write(string.format('\n{"good":%d,"bad":%d,"status":%d,"errors":%d,"seconds":%f,"p50_ms":%f,"p99_ms":%f}\n', all, wrong, last,
        errors.connect + errors.read + errors.write + errors.timeout, summary.duration / 1e6,
        latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
