-- FBIO frames (D2): the frame, its fragments put together, its payload inflated, its payload's message.

local fragments, whole -- first pass: parts by message; reassembled payloads as hex by packet

local function forget_fragments()
	fragments, whole = {}, {}
end

forget_fragments()

local MAX_PARTS, MAX_MESSAGE = 1024, 1024 * 1024

local function add_fragment(held, values, span)
	local at = bit_set(values.flags, FLAG.FRAG_V2) and values.frag_offset or held.size
	table.insert(held.parts, { at = at, hex = span and tostring(span:bytes()) or "" })
	held.size = held.size + (span and span:len() or 0)
	held.final = held.final or bit_set(values.flags, FLAG.FINAL)
	held.total = bit_set(values.flags, FLAG.FRAG_V2) and values.frag_total_len or held.final and held.size
	return #held.parts <= MAX_PARTS and held.size <= MAX_MESSAGE
end

local function assembled(held)
	if not held.final or held.size ~= held.total then
		return nil
	end
	table.sort(held.parts, function(a, b) return a.at < b.at end)
	local hex, at = {}, 0
	for i, part in ipairs(held.parts) do
		if part.at ~= at then
			return nil
		end
		hex[i], at = part.hex, at + #part.hex / 2
	end
	return table.concat(hex)
end

-- Return the whole payload as a TvbRange where this fragment is the last to arrive, else nil.
local function reassemble(r)
	local pinfo = r.ctx.pinfo
	if not pinfo.visited then
		local key = tostring(pinfo.src) .. tostring(r.spans.sender:bytes()) .. tostring(r.spans.request_id:bytes())
		fragments[key] = fragments[key] or { parts = {}, size = 0 }
		local fits = add_fragment(fragments[key], r.values, r.spans.payload)
		local hex = fits and assembled(fragments[key])
		if hex or not fits then
			fragments[key] = nil
		end
		whole[pinfo.number] = hex or nil
	end
	local hex = whole[pinfo.number]
	return hex and #hex > 0 and ByteArray.new(hex):tvb("Reassembled fabricBIOS payload"):range() or nil
end

-- Wireshark before 4.4 has `uncompress`, later ones `uncompress_zlib`; without zlib they give nothing.
local function inflate(span)
	for _, name in ipairs({ "uncompress_zlib", "uncompress" }) do
		local ok, found = pcall(function() return span[name](span, "Inflated fabricBIOS payload") end)
		if ok and found then
			return found
		end
	end
	return nil
end

local function show_whole(tvb, stop, tree, ctx, name)
	local r = reader(tvb, 0, stop, tree, ctx)
	return show_exactly(r, name, stop, name)
end

local function payload_type(values, ctx)
	if MSG_TYPES[values.msg_type] == "RESPONSE" and not ctx.quic then
		return "solicit_response"
	end
	return PAYLOADS[values.msg_type]
end

local function show_payload(r)
	local values, span = r.values, r.spans.payload
	local name, whole_message = payload_type(values, r.ctx), span
	if bit_set(values.flags, FLAG.CONTINUED) or bit_set(values.flags, FLAG.FINAL) then
		whole_message = reassemble(r)
		if not whole_message then
			r.ctx.summary = r.ctx.summary .. " (fragment)"
			return
		end
		r.tree:add(F["frame.reassembled"], whole_message)
	end
	if bit_set(values.flags, FLAG.COMPRESSED) and whole_message then
		r.ctx.summary = r.ctx.summary .. " (compressed)"
		whole_message = inflate(whole_message)
		if not whole_message then
			r.tree:add_proto_expert_info(info.unreadable, "COMPRESSED, and it cannot be inflated here")
			return
		end
		r.tree:add(F["frame.inflated"], whole_message)
	end
	if name then
		local tvb = whole_message and whole_message:tvb() or r.tvb
		local part = reader(tvb, whole_message and 0 or r.pos, whole_message and tvb:len() or r.pos, r.tree, r.ctx)
		show_exactly(part, name, part.stop - part.pos, name)
	end
end

local function show_place(r, name, struct)
	local place = r.places[name]
	if struct and place then
		local part = reader(r.tvb, place[1], place[1] + place[2], r.tree, r.ctx)
		show_exactly(part, struct, place[2], struct)
	end
end

local function op_name(op)
	return OPS[op] and OPS[op].name or ("op 0x%04x"):format(op)
end

function INSIDE.request(r)
	local op = OPS[r.values.op]
	r.ctx.summary = r.ctx.summary .. " " .. op_name(r.values.op)
	if r.spans.token then
		show_place(r, "token", "token")
	end
	show_place(r, "params", op and op.params)
end

function INSIDE.response(r)
	local op, failed = OPS[r.values.op], r.values.status ~= 0
	r.ctx.summary = ("%s %s %s"):format(r.ctx.summary, op_name(r.values.op), STATUS[r.values.status] or "?")
	if failed then
		r.tree:add_proto_expert_info(info.status, STATUS[r.values.status] or "unknown status")
	end
	show_place(r, "result", failed and "error_result" or op and op.result)
end

local FRAME_LIMIT, SIGNATURE = 1400, 64

local function frame_length(tvb, at)
	if tvb:len() - at < 44 then
		return 44
	end
	local flags, size = tvb:range(at + 6, 2):uint(), tvb:range(at + 40, 4):uint()
	size = 44 + size + (bit_set(flags, FLAG.FRAG_V2) and 8 or 0)
	return size + (bit_set(flags, FLAG.SIGNED) and SIGNATURE or 0)
end

local function dissect_frame(r)
	r.ctx.summary = MSG_TYPES[r.tvb:range(r.pos + 5, 1):uint()] or "unknown msg_type"
	dissect_struct("frame", r)
	if not r.ctx.quic and r.stop > FRAME_LIMIT then
		refuse(r.tree, "a frame of more than 1400 bytes")
	end
	show_payload(r)
end
