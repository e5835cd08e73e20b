-- One chat request again and again, as an OpenAI client sends it. For wrk; run_wrk.sh passes the
-- environment on:
--
--   WRK_MODEL      the model to ask for (default gpt-oss:20b)
--   WRK_BODY_JSON  the whole body instead
--   WRK_API_KEY    sent as a bearer token, if there is one
--
-- Adds to wrk's report what it leaves out, in lines that wrk_parse.py reads: p95, and the answers
-- that were not 2xx by class, with the first of them.

local function environment(name, default)
  local value = os.getenv(name)
  if value == nil or value == "" then
    return default
  end
  return value
end

local function json_string(text)
  local escaped = text:gsub('[%c"\\]', function(character)
    return string.format("\\u%04x", character:byte())
  end)
  return '"' .. escaped .. '"'
end

wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = environment(
  "WRK_BODY_JSON",
  '{"model":' .. json_string(environment("WRK_MODEL", "gpt-oss:20b"))
    .. ',"messages":[{"role":"user","content":"Say in one short sentence what a router does."}]}'
)
local key = environment("WRK_API_KEY", nil)
if key then
  wrk.headers["Authorization"] = "Bearer " .. key
end

local threads = {}

function setup(thread)
  table.insert(threads, thread)
end

-- Globals, because that is what thread:get() sees. wrk counts only answers from 400 on itself.
count_other, count_4xx, count_5xx = 0, 0, 0
first_bad = ""

function response(status, _, body)
  if status >= 200 and status < 300 then
    return
  end
  if status >= 400 and status < 500 then
    count_4xx = count_4xx + 1
  elseif status >= 500 then
    count_5xx = count_5xx + 1
  else
    count_other = count_other + 1
  end
  if first_bad == "" then
    first_bad = status .. " " .. body:sub(1, 300):gsub("%s+", " ")
  end
end

function done(_, latency, _)
  local other, client, server, first = 0, 0, 0, ""
  for _, thread in ipairs(threads) do
    other = other + thread:get("count_other")
    client = client + thread:get("count_4xx")
    server = server + thread:get("count_5xx")
    if first == "" then
      first = thread:get("first_bad")
    end
  end
  -- wrk keeps latencies in microseconds.
  print(string.format("p95: %.3f ms", latency:percentile(95) / 1000))
  print(string.format(
    "non-2xx: %d (4xx %d, 5xx %d, other %d)", other + client + server, client, server, other
  ))
  if first ~= "" then
    print("first non-2xx answer: " .. first)
  end
end
