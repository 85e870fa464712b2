-- SPDX-License-Identifier: Apache-2.0
-- wrk that ends after a given number of responses: `-- NUMBER PATH`, with one connection.
local threads = {}
function setup(thread) table.insert(threads, thread) end

function init(arguments)
   limit = tonumber(arguments[1])
   prefix = arguments[2]
   sent = 0
   answered = 0
   bytes_out = 0
end

-- wrk asks once for a look at the request before it begins, so what counts is answers.
function request()
   local text = wrk.format("GET", prefix .. "/" .. answered)
   size = #text
   return text
end

function response()
   answered = answered + 1
   bytes_out = bytes_out + size
   if answered == limit then wrk.thread:stop() end
end

function done(summary)
   local thread = threads[1]
   print("exactly " .. thread:get("answered") .. " " .. thread:get("bytes_out") .. " " .. summary.bytes)
end
