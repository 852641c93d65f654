-- The protocol: what Wireshark calls, preferences, and where it is registered.

local fabricbios = Proto("fabricbios", "fabricBIOS")

for _, field in pairs(F) do
	table.insert(ALL_FIELDS, field)
end
fabricbios.fields = ALL_FIELDS
fabricbios.experts = { info.malformed, info.refused, info.status, info.bad_auth, info.unreadable }
fabricbios.prefs.dp_key = Pref.string("dp_key", "",
	"Key of the leases whose auth_tags are checked: 64 hexadecimal digits, or LEASE:KEY, LEASE:KEY")
fabricbios.prefs.dp_auth = Pref.enum("dp_auth", AUTO, "How auth_tags are made (DP_AUTH)", {
	{ 1, "hmac-header", 0 },
	{ 2, "hmac-full", 1 },
	{ 3, "blake2s", 2 },
	{ 4, "siphash", 3 },
	{ 5, "auto", AUTO },
}, false)
fabricbios.prefs.block_size = Pref.uint("block_size", 512, "Block size of FBBU")

function fabricbios.prefs_changed()
	read_keys(fabricbios.prefs.dp_key)
end

function fabricbios.init()
	forget_fragments()
	forget_questions()
	read_keys(fabricbios.prefs.dp_key)
end

local LENGTHS = { FBIO = frame_length, FBMU = dp_length, FBBU = dp_length, FBMK = dp_length }
local LEAST = { FBIO = 44, FBMU = 56, FBBU = 56, FBMK = 56 }

local function magic_at(tvb, at)
	if tvb:len() - at < 4 then
		return nil
	end
	local magic = tvb:raw(at, 4)
	return LENGTHS[magic] and magic or nil
end

-- Show one message that starts at `at`; return where it ends. What is malformed is marked, and ends the buffer.
local function dissect_message(tvb, at, stop, pinfo, tree, ctx)
	local magic = magic_at(tvb, at)
	local root = tree:add(fabricbios, tvb:range(at, stop - at))
	ctx.summary = magic
	local r = reader(tvb, at, stop, root, ctx)
	local ok, fault = pcall(function()
		if stop - at < LEAST[magic] then
			malformed("shorter than a header")
		end
		if magic == "FBIO" then
			dissect_frame(r)
		else
			dissect_datagram(r, magic, fabricbios.prefs)
		end
		if r.pos ~= stop then
			malformed(("%d bytes left over after a complete message"):format(stop - r.pos))
		end
	end)
	pinfo.cols.protocol = magic
	if not ok then
		if type(fault) ~= "table" then
			error(fault, 0)
		end
		root:add_proto_expert_info(info.malformed, fault.why)
		ctx.summary = ctx.summary .. " [malformed: " .. fault.why .. "]"
	end
	root:append_text(", " .. ctx.summary)
	return ctx.summary
end

local function context(pinfo, quic)
	local v6 = tostring(pinfo.net_dst):find(":", 1, true) ~= nil
	return { pinfo = pinfo, quic = quic, v6 = v6, block_size = fabricbios.prefs.block_size }
end

-- A sender may hand the kernel a window of datagrams as one (UDP segmentation offload), and captures on that machine
-- show it before it is cut. A datagram that is followed by another of the same magic ends there; anything else is left over.
local function datagram_end(tvb, at)
	local magic = magic_at(tvb, at)
	local stop = at + LENGTHS[magic](tvb, at)
	local follows = magic ~= "FBIO" and stop < tvb:len() and magic_at(tvb, stop) == magic
	return follows and stop or tvb:len()
end

function fabricbios.dissector(tvb, pinfo, tree)
	if not magic_at(tvb, 0) then
		return 0
	end
	local at, summaries = 0, {}
	while at < tvb:len() do
		local stop = datagram_end(tvb, at)
		table.insert(summaries, dissect_message(tvb, at, stop, pinfo, tree, context(pinfo, false)))
		at = stop
	end
	pinfo.cols.info = table.concat(summaries, "; ")
	return tvb:len()
end

-- A stream has one message a direction, but nothing is lost by taking what comes.
local streams = Proto("fabricbios_quic", "fabricBIOS on QUIC")

function streams.dissector(tvb, pinfo, tree)
	local at = 0
	while at < tvb:len() do
		local magic = magic_at(tvb, at)
		local rest = tvb:len() - at
		if not magic and rest >= 4 then
			return at
		end
		local length = magic and LENGTHS[magic](tvb, at) or 4
		if length > rest then
			pinfo.desegment_offset, pinfo.desegment_len = at, length - rest
			return at
		end
		pinfo.cols.info:append(", " .. dissect_message(tvb, at, at + length, pinfo, tree, context(pinfo, true)))
		at = at + length
	end
	return at
end

local function heuristic(tvb, pinfo, tree)
	local magic = magic_at(tvb, 0)
	if not magic or magic == "FBMK" or tvb:len() < LEAST[magic] then
		return false
	end
	fabricbios.dissector(tvb, pinfo, tree)
	return true
end

local udp = DissectorTable.get("udp.port")
for _, port in ipairs(PORTS) do
	udp:add(port, fabricbios)
end
fabricbios:register_heuristic("udp", heuristic)
udp:add_for_decode_as(streams) -- for stream payloads that somebody wrote into datagrams: -d udp.port==N,fabricbios_quic
for _, name in ipairs({ "quic.proto", "tls.alpn" }) do
	local ok, by_alpn = pcall(DissectorTable.get, name)
	if ok and by_alpn then
		by_alpn:add(ALPN, streams)
	end
end
