-- The interpreter of the tables above: one handler a kind of field. A reader `r` holds tvb, pos, stop (where the
-- enclosing buffer ends), tree, values (numbers by field name), spans (TvbRanges by field name), places ({pos, length} by field name) and ctx.

local LIST_LIMIT = 4096

local info = {
	malformed = ProtoExpert.new("fabricbios.malformed", "Malformed fabricBIOS message",
		expert.group.MALFORMED, expert.severity.ERROR),
	refused = ProtoExpert.new("fabricbios.refused", "Refused by the protocol's rules",
		expert.group.PROTOCOL, expert.severity.ERROR),
	status = ProtoExpert.new("fabricbios.not_ok", "The answer is a refusal",
		expert.group.RESPONSE_CODE, expert.severity.NOTE),
	bad_auth = ProtoExpert.new("fabricbios.auth.bad", "auth_tag does not hold",
		expert.group.CHECKSUM, expert.severity.ERROR),
	unreadable = ProtoExpert.new("fabricbios.unreadable", "The payload cannot be read here",
		expert.group.UNDECODED, expert.severity.NOTE),
}

-- Errors of the message are tables; anything else that is raised is a fault of this file and goes up to Wireshark.
local function malformed(why)
	error({ why = why }, 0)
end

local function reader(tvb, pos, stop, tree, ctx)
	return { tvb = tvb, pos = pos, stop = stop, tree = tree, ctx = ctx, values = {}, spans = {}, places = {} }
end

local function inner(r, stop, tree)
	return reader(r.tvb, r.pos, stop, tree, r.ctx)
end

local function refuse(item, why)
	item:add_proto_expert_info(info.refused, why)
end

local function left(r)
	return r.stop - r.pos
end

-- Take n bytes and show them as the field of descriptor d. A range of no bytes has no place in Wireshark's Lua.
local function take(r, n, d)
	if n > left(r) then
		malformed(d.n .. " is longer than what is left")
	end
	local span = n > 0 and r.tvb:range(r.pos, n) or nil
	r.spans[d.n], r.places[d.n] = span, { r.pos, n }
	r.pos = r.pos + n
	return span
end

local function prefix(r, d)
	if d.prefix == 0 then
		return left(r)
	end
	if d.prefix > left(r) then
		malformed("ends inside the length of " .. d.n)
	end
	local span = r.tvb:range(r.pos, d.prefix)
	r.pos = r.pos + d.prefix
	r.tree:add(F[d.pf], span)
	return span:uint()
end

local function valid_utf8(s)
	local at, size = 1, #s
	while at <= size do
		local c = s:byte(at)
		local n = c < 0x80 and 0 or c >= 0xc2 and c < 0xe0 and 1 or c >= 0xe0 and c < 0xf0 and 2
			or c >= 0xf0 and c < 0xf5 and 3
		if not n or at + n > size then
			return false
		end
		for i = 1, n do
			local b = s:byte(at + i)
			local low = i == 1 and (c == 0xe0 and 0xa0 or c == 0xf0 and 0x90) or 0x80
			local high = i == 1 and (c == 0xed and 0x9f or c == 0xf4 and 0x8f) or 0xbf
			if b < low or b > high then
				return false
			end
		end
		at = at + n + 1
	end
	return true
end

local function show_bytes(r, d, n)
	local span = take(r, n, d)
	if span then
		r.tree:add(F[d.f], span)
	end
end

local function show_text(r, d, n)
	local span = take(r, n, d)
	if not span then
		r.tree:add(F[d.f], "")
		return
	end
	if not valid_utf8(span:raw()) then
		malformed(d.n .. " is not UTF-8")
	end
	r.tree:add(F[d.f], span, span:string(ENC_UTF_8))
end

local function judge(item, d, value)
	if d.only and not d.only[value] then
		refuse(item, d.n .. " has a value that is not allowed")
	end
	if d.low and value < d.low or d.high and value > d.high then
		refuse(item, d.n .. " is out of range")
	end
	if d.mask then
		local rest = value
		for _, bit in ipairs(d.bits) do
			rest = rest - (math.floor(value / bit.bit) % 2) * bit.bit
		end
		if rest ~= 0 then
			refuse(item, d.n .. " has reserved bits set")
		end
	end
end

local function show_int(r, d)
	local span = take(r, d.size, d)
	local item = r.tree:add(F[d.f], span)
	if d.size <= 4 then
		local value = d.signed and span:int() or span:uint()
		r.values[d.n] = value
		judge(item, d, value)
		for _, bit in ipairs(d.bits or {}) do
			item:add(F[bit.f], span)
		end
	elseif d.low == 1 and span:uint64() == UInt64(0) then
		refuse(item, d.n .. " is never zero")
	end
end

local CHECKS = {} -- by struct: a rule across fields; returns what is wrong, or nothing
local INSIDE = {} -- by struct: what to do with bytes that hold a message of their own
local dissect_struct, dissect_tlvs -- they and the handlers below call each other

local function subtree(r, name, label)
	local at = math.min(r.pos, r.tvb:len() - 1)
	local item = r.tree:add(F[name], r.tvb:range(at))
	item:set_text(label)
	return item
end

local function close(item, from, r)
	item:set_len(math.max(r.pos - from, 0))
end

local function show_struct(r, name, stop, label)
	local from, item = r.pos, subtree(r, name, label)
	local part = inner(r, stop, item)
	dissect_struct(name, part)
	r.pos = part.pos
	close(item, from, r)
	return part
end

local function show_exactly(r, name, n, label)
	if n > left(r) then
		malformed(label .. " is longer than what is left")
	end
	local stop = r.pos + n
	local part = show_struct(r, name, stop, label)
	if part.pos ~= stop then
		malformed(label .. " is longer than its fields")
	end
	return part
end

local handlers = {}

function handlers.int(d, r)
	show_int(r, d)
end

function handlers.octets(d, r)
	r.tree:add(F[d.f], take(r, d.size, d))
end

function handlers.array(d, r)
	for _ = 1, d.count do
		r.tree:add(F[d.f], take(r, d.size, d))
	end
end

function handlers.bytes(d, r)
	show_bytes(r, d, prefix(r, d))
end

function handlers.text(d, r)
	show_text(r, d, prefix(r, d))
end

function handlers.padding(d, r)
	local n = left(r)
	local span = take(r, n, d)
	if span then
		r.tree:add(F[d.f], span, n)
	end
end

function handlers.counted(d, r)
	show_bytes(r, d, r.values[d.by] * (d.blocks and r.ctx.block_size or 1))
end

function handlers.list(d, r)
	local count = prefix(r, d)
	r.values[d.n .. "_count"] = count
	if count > LIST_LIMIT then
		malformed(d.n .. " has too many items")
	end
	if count * d.least > left(r) then
		malformed(d.n .. " is longer than what is left")
	end
	local sum = 0
	for i = 1, count do
		if d.item then
			show_struct(r, d.item, r.stop, d.item .. " " .. i)
		else
			local span = take(r, d.least, d)
			r.tree:add(F[d.f], span)
			sum = sum + (d.least <= 4 and span:uint() or 0)
		end
	end
	r.values[d.n .. "_sum"] = sum
end

function handlers.byteslist(d, r)
	local count = prefix(r, d)
	if count > LIST_LIMIT then
		malformed(d.n .. " has too many items")
	end
	local each = { n = d.n, f = d.f, pf = d.lf, prefix = 4 }
	for _ = 1, count do
		local n = prefix(r, each)
		local span = take(r, n, d)
		if span then
			local item = r.tree:add(F[d.f], span)
			if d.holds then
				show_exactly(reader(r.tvb, r.pos - n, r.pos, item, r.ctx), d.holds, n, d.holds)
			end
		end
	end
end

function handlers.nested(d, r)
	if d.by then
		show_exactly(r, d.item, r.values[d.by], d.item)
	else
		show_struct(r, d.item, r.stop, d.item)
	end
end

-- A payload whose fields stand directly under the message, in as many bytes as the header says.
function handlers.flat(d, r)
	local n = r.values[d.by]
	if n > left(r) then
		malformed("payload_len is more than what is left")
	end
	local part = inner(r, r.pos + n, r.tree)
	part.values, part.spans, part.places = r.values, r.spans, r.places
	r.spans["header.lease_id"] = r.spans.lease_id
	dissect_struct(d.item, part)
	if part.pos ~= part.stop then
		malformed("payload_len is more than the payload's fields")
	end
	r.pos = part.pos
end

function handlers.choice(d, r)
	local n = prefix(r, d)
	local item = d.items[r.values[d.by]]
	if not item then
		malformed("unknown " .. d.by)
	end
	show_exactly(r, item, n, item)
end

function handlers.tlvs(d, r)
	local n = prefix(r, d)
	if d.prefix == 2 then
		if n > LIST_LIMIT then
			malformed(d.n .. " has too many items")
		end
		dissect_tlvs(d.table, r, n)
		return
	end
	if n > left(r) then
		malformed(d.n .. " is longer than what is left")
	end
	local part = inner(r, r.pos + n, r.tree)
	dissect_tlvs(d.table, part)
	r.pos = part.pos
end

local function show_tlv(spec, r)
	local head = spec.narrow and 3 or 4
	if left(r) < head then
		malformed("truncated TLV header")
	end
	local tag, length = r.tvb:range(r.pos, head - 2):uint(), r.tvb:range(r.pos + head - 2, 2):uint()
	if length > left(r) - head then
		malformed(("TLV 0x%04x is longer than its buffer"):format(tag))
	end
	local name = spec.tags[tag]
	local item = r.tree:add(F[spec.key], r.tvb:range(r.pos, head + length))
	item:set_text(("%s (0x%04x), %d bytes"):format(spec.names[tag] or "unknown tag", tag, length))
	item:add(F[spec.key .. ".tag"], r.tvb:range(r.pos, head - 2))
	item:add(F[spec.key .. ".len"], r.tvb:range(r.pos + head - 2, 2))
	r.pos = r.pos + head
	local part = inner(r, r.pos + length, item)
	if name then
		dissect_struct(name, part)
		if part.pos ~= part.stop then
			malformed(spec.names[tag] .. " is longer than its value")
		end
	elseif length > 0 then
		item:add(F[spec.key .. ".raw"], r.tvb:range(r.pos, length))
	end
	if not name and spec.strict then
		refuse(item, "an unknown type refuses the whole message")
	end
	r.pos = part.stop
end

function dissect_tlvs(table_key, r, count)
	local spec = TLV_TABLES[table_key]
	while count and count > 0 or not count and left(r) > 0 do
		show_tlv(spec, r)
		count = count and count - 1
	end
end

local function present(d, r)
	local value = r.values[d.when.by]
	if d.when.mask then
		return math.floor(value / d.when.mask) % 2 == 1
	end
	return value == d.when.value
end

function dissect_struct(name, r)
	for _, d in ipairs(STRUCTS[name]) do
		if d.tail and left(r) == 0 then
			break
		end
		if not d.when or present(d, r) then
			handlers[d.k](d, r)
		end
	end
	local inside = INSIDE[name]
	if inside then
		inside(r)
	end
	local check = CHECKS[name]
	local why = check and check(r)
	if why then
		refuse(r.tree, why)
	end
end
