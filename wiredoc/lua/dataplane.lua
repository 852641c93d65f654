-- FBMU, FBBU and FBMK (D10, D11, D12), and whether auth_tag holds.

local HEADER, TAG_AT, TAG_SIZE = 56, 40, 16
local DATAGRAM_LIMIT = { v4 = 1472, v6 = 1452 }
local QUESTIONS = { [DP_OP.HELLO] = true, [DP_OP.READ] = true, [DP_OP.WRITE] = true, [DP_OP.PING] = true }
local AUTO = 4
local UNVERIFIED, GOOD, BAD = 0, 1, 2

local question_tags, learned, keys, key_error -- learned: keys by lease, from LEASE_ALLOC results in the same capture

local function forget_questions()
	question_tags, learned = {}, {}
end

forget_questions()

-- dp_key: "KEY" for every lease, or "LEASE:KEY, LEASE:KEY"; both in hexadecimal digits.
local function read_keys(text)
	keys, key_error = {}, nil
	for word in text:gmatch("[^%s,;]+") do
		local lease, key = word:match("^0?[xX]?(%x+):(%x+)$")
		key = key or word:match("^(%x+)$")
		if not key or #key ~= 64 or lease and #lease > 32 then
			key_error = "the preference dp_key is KEY or LEASE:KEY with a KEY of 64 hexadecimal digits"
		else
			local id = lease and (("0"):rep(32 - #lease) .. lease:lower()) or "any"
			keys[id] = (key:gsub("%x%x", function(two) return string.char(tonumber(two, 16)) end))
		end
	end
end

read_keys("")

local function covered(datagram, op, mode)
	local payload = datagram:sub(HEADER + 1)
	if mode == 0 then
		payload = (op == DP_OP.READ or op == DP_OP.WRITE) and payload:sub(1, 12) or ""
	elseif PADDED[op] then
		payload = payload:sub(1, PADDED[op])
	end
	return datagram:sub(1, TAG_AT) .. payload
end

local function conversation(r)
	local function raw(name) return r.spans[name]:raw() end
	return raw("lease_id") .. raw("nonce") .. raw("request_id")
end

-- Return status, mode and the tag that would be right.
local function verdict(datagram, op, key, asked_mode, question_tag)
	local tag, computed = datagram:sub(TAG_AT + 1, HEADER), nil
	for _, mode in ipairs(asked_mode == AUTO and { 2, 3, 1, 0 } or { asked_mode }) do
		if mode == 0 and not QUESTIONS[op] then
			computed = question_tag -- nil where the question is not in the capture
		else
			computed = auth.tag[mode](key, covered(datagram, op, mode))
		end
		if computed == tag then
			return GOOD, mode, tag
		end
	end
	return computed and BAD or UNVERIFIED, asked_mode, computed
end

local function to_hex(raw)
	return (raw:gsub(".", function(c) return ("%02x"):format(c:byte()) end))
end

local function show_verdict(r, datagram, op, mode, key)
	local status, found, computed = verdict(datagram, op, key, mode, question_tags[conversation(r)])
	local span = r.spans.auth_tag
	local item = r.tree:add(F["auth.status"], span, status)
	item:set_generated()
	if status == GOOD then
		r.tree:add(F["auth.mode"], span, found):set_generated()
	elseif status == BAD then
		r.ctx.summary = r.ctx.summary .. " [bad auth_tag]"
		item:add_proto_expert_info(info.bad_auth, mode == AUTO and "no DP_AUTH mode gives this tag with this key"
			or "auth_tag should be " .. to_hex(computed))
	end
end

local function check_auth(r, at, op, prefs)
	local datagram = r.tvb:raw(at, r.pos - at)
	if not r.ctx.pinfo.visited and QUESTIONS[op] then
		question_tags[conversation(r)] = datagram:sub(TAG_AT + 1, HEADER)
	end
	local lease = to_hex(r.spans["header.lease_id"]:raw())
	local key = keys[lease] or keys.any or learned[lease]
	if key_error then
		r.tree:add_proto_expert_info(info.unreadable, key_error)
	elseif key and not auth.available then
		r.tree:add_proto_expert_info(info.unreadable, "checking auth_tag needs Lua 5.2 or later")
	elseif key then
		show_verdict(r, datagram, op, prefs.dp_auth, key)
	end
end

function INSIDE.dp_key(r)
	r.ctx.dp_key = r.spans.dp_key:raw()
end

local function learn(r)
	if r.ctx.dp_key then
		learned[to_hex(r.spans.lease_id:raw())] = r.ctx.dp_key
	end
end

INSIDE.lease_alloc_result, INSIDE.lease_attach_result = learn, learn

local function page_message(r, op)
	local question = false
	if r.stop - r.pos >= HEADER + 20 then
		question = r.tvb:raw(r.pos + 16, 16) == r.tvb:raw(r.pos + HEADER, 16)
	end
	local pair = PAGE_MESSAGES[op]
	return pair and (question and pair[1] or pair[2]) or DP_MESSAGES.FBMU[op]
end

local function dp_length(tvb, at)
	if tvb:len() - at < HEADER then
		return HEADER
	end
	return HEADER + tvb:range(at + 8, 4):uint()
end

local function summary(r, name)
	local v, lease = r.values, to_hex(r.spans["header.lease_id"]:raw())
	local text = ("%s lease ..%s nonce %s"):format(name:gsub("_", " ", 1):upper(), lease:sub(-8), tostring(r.spans.nonce:uint64()))
	if r.spans.offset then
		text = ("%s offset %s"):format(text, tostring(r.spans.offset:uint64()))
	end
	if v.length then
		text = ("%s length %d"):format(text, v.length)
	end
	return v.status and ("%s %s"):format(text, DP_STATUS[v.status] or "?") or text
end

local function judge_status(r, magic)
	local status = r.values.status
	if magic == "FBMK" or not status or status == 0 then
		return
	end
	r.tree:add_proto_expert_info(info.status, DP_STATUS[status] or "unknown status")
	if status == BAD_AUTH and not r.ctx.quic then
		refuse(r.tree, "BAD_AUTH is for QUIC alone")
	end
end

local function dissect_datagram(r, magic, prefs)
	local at, op = r.pos, r.tvb:range(r.pos + 5, 1):uint()
	local name = magic == "FBMK" and page_message(r, op) or magic ~= "FBMK" and DP_MESSAGES[magic][op]
	r.ctx.summary = name or ("%s op 0x%02x"):format(magic, op)
	dissect_struct(name and "message " .. name or "dp", r)
	if not name then
		malformed(("%s has no op 0x%02x"):format(magic, op))
	end
	r.ctx.summary = summary(r, name)
	judge_status(r, magic)
	local version = r.ctx.v6 and "v6" or "v4"
	if r.ctx.quic then
		return
	end
	if r.stop - at > DATAGRAM_LIMIT[version] then
		refuse(r.tree, "a datagram of more than " .. DATAGRAM_LIMIT[version] .. " bytes")
	end
	check_auth(r, at, op, prefs)
end
