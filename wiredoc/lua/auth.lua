-- auth_tag in pure Lua (D10): HMAC-SHA256, keyed BLAKE2s with a 16-byte digest, SipHash-2-4 with 128-bit output.
-- Everything takes and returns byte strings. Numbers stay below 2^53, so that doubles (Lua 5.2) and integers
-- (Lua 5.3 and later) give the same bits.

local auth = {}

local M32 = 0xffffffff
local band, bor, bxor, lshift, rshift

if bit32 then
	band, bor, bxor, lshift, rshift = bit32.band, bit32.bor, bit32.bxor, bit32.lshift, bit32.rshift
elseif load("return 1 & 1") then
	-- Lua 5.3 and later have operators, which older ones cannot even parse.
	local native = load([[
		local M32 = 0xffffffff
		return function(a, b) return a & b end,
			function(a, b) return a | b end,
			function(a, b) return a ~ b end,
			function(a, n) return (a << n) & M32 end,
			function(a, n) return (a & M32) >> n end
	]])
	band, bor, bxor, lshift, rshift = native()
end

auth.available = band ~= nil

local function rotr(x, n)
	return bor(rshift(x, n), lshift(x, 32 - n))
end

local function add(a, b)
	return band(a + b, M32)
end

local function be32(s, at)
	local a, b, c, d = s:byte(at, at + 3)
	return ((a * 256 + b) * 256 + c) * 256 + d
end

local function le32(s, at)
	local a, b, c, d = s:byte(at, at + 3)
	return ((d * 256 + c) * 256 + b) * 256 + a
end

local function to_be32(x)
	return string.char(rshift(x, 24), band(rshift(x, 16), 255), band(rshift(x, 8), 255), band(x, 255))
end

local function to_le32(x)
	return string.char(band(x, 255), band(rshift(x, 8), 255), band(rshift(x, 16), 255), rshift(x, 24))
end

-- SHA-256 (FIPS 180-4)

local SHA_K = {
	0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
	0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
	0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
	0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
	0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
	0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
	0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
	0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
}
local SHA_IV = {
	0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
}

local function sha256_block(state, block, at)
	local w = {}
	for i = 1, 16 do
		w[i] = be32(block, at + 4 * (i - 1))
	end
	for i = 17, 64 do
		local x, y = w[i - 15], w[i - 2]
		local s0 = bxor(bxor(rotr(x, 7), rotr(x, 18)), rshift(x, 3))
		local s1 = bxor(bxor(rotr(y, 17), rotr(y, 19)), rshift(y, 10))
		w[i] = band(w[i - 16] + s0 + w[i - 7] + s1, M32)
	end
	local a, b, c, d, e, f, g, h = state[1], state[2], state[3], state[4], state[5], state[6], state[7], state[8]
	for i = 1, 64 do
		local s1 = bxor(bxor(rotr(e, 6), rotr(e, 11)), rotr(e, 25))
		local ch = bxor(band(e, f), band(M32 - e, g))
		local t1 = h + s1 + ch + SHA_K[i] + w[i]
		local s0 = bxor(bxor(rotr(a, 2), rotr(a, 13)), rotr(a, 22))
		local maj = bxor(bxor(band(a, b), band(a, c)), band(b, c))
		h, g, f, e, d, c, b, a = g, f, e, band(d + t1, M32), c, b, a, band(t1 + s0 + maj, M32)
	end
	local new = { a, b, c, d, e, f, g, h }
	for i = 1, 8 do
		state[i] = add(state[i], new[i])
	end
end

function auth.sha256(data)
	local state = { table.unpack(SHA_IV) }
	local length = #data
	data = data .. "\128" .. ("\0"):rep((55 - length) % 64) .. "\0\0\0\0" .. to_be32(length * 8)
	for at = 1, #data, 64 do
		sha256_block(state, data, at)
	end
	local out = {}
	for i = 1, 8 do
		out[i] = to_be32(state[i])
	end
	return table.concat(out)
end

local function xor_with(key, pad)
	return (key:gsub(".", function(c) return string.char(bxor(c:byte(), pad)) end))
end

function auth.hmac_sha256(key, data)
	local padded = key .. ("\0"):rep(64 - #key)
	return auth.sha256(xor_with(padded, 0x5c) .. auth.sha256(xor_with(padded, 0x36) .. data))
end

-- BLAKE2s (RFC 7693)

local SIGMA = {
	{ 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 },
	{ 14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3 },
	{ 11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4 },
	{ 7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8 },
	{ 9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13 },
	{ 2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9 },
	{ 12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11 },
	{ 13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10 },
	{ 6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5 },
	{ 10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0 },
}
local COLUMNS = {
	{ 1, 5, 9, 13 }, { 2, 6, 10, 14 }, { 3, 7, 11, 15 }, { 4, 8, 12, 16 },
	{ 1, 6, 11, 16 }, { 2, 7, 12, 13 }, { 3, 8, 9, 14 }, { 4, 5, 10, 15 },
}

local function blake2s_mix(v, where, x, y)
	local a, b, c, d = v[where[1]], v[where[2]], v[where[3]], v[where[4]]
	a = band(a + b + x, M32)
	d = rotr(bxor(d, a), 16)
	c = add(c, d)
	b = rotr(bxor(b, c), 12)
	a = band(a + b + y, M32)
	d = rotr(bxor(d, a), 8)
	c = add(c, d)
	b = rotr(bxor(b, c), 7)
	v[where[1]], v[where[2]], v[where[3]], v[where[4]] = a, b, c, d
end

local function blake2s_block(h, block, at, counter, last)
	local m, v = {}, {}
	for i = 1, 16 do
		m[i] = le32(block, at + 4 * (i - 1))
	end
	for i = 1, 8 do
		v[i], v[i + 8] = h[i], SHA_IV[i]
	end
	v[13] = bxor(v[13], counter)
	if last then
		v[15] = M32 - v[15]
	end
	for round = 1, 10 do
		local order = SIGMA[round]
		for i = 1, 8 do
			blake2s_mix(v, COLUMNS[i], m[order[2 * i - 1] + 1], m[order[2 * i] + 1])
		end
	end
	for i = 1, 8 do
		h[i] = bxor(h[i], bxor(v[i], v[i + 8]))
	end
end

function auth.blake2s_128(key, data)
	local h = { table.unpack(SHA_IV) }
	h[1] = bxor(h[1], 0x01010000 + #key * 256 + 16)
	local whole = key .. ("\0"):rep(64 - #key) .. data
	local length = #whole
	whole = whole .. ("\0"):rep(-length % 64)
	for at = 1, #whole, 64 do
		local last = at + 64 > #whole
		blake2s_block(h, whole, at, last and length or at + 63, last)
	end
	return to_le32(h[1]) .. to_le32(h[2]) .. to_le32(h[3]) .. to_le32(h[4])
end

-- SipHash-2-4-128, in 32-bit halves: words are v[2i - 1] (high) and v[2i] (low)

local function sip_add(v, i, j)
	local low = v[i + 1] + v[j + 1]
	local carry = low > M32 and 1 or 0
	v[i + 1], v[i] = band(low, M32), band(v[i] + v[j] + carry, M32)
end

local function sip_rotl(v, i, n)
	local high, low = v[i], v[i + 1]
	if n >= 32 then
		high, low, n = low, high, n - 32
	end
	if n > 0 then
		high, low = bor(lshift(high, n), rshift(low, 32 - n)), bor(lshift(low, n), rshift(high, 32 - n))
	end
	v[i], v[i + 1] = high, low
end

local function sip_xor(v, i, j)
	v[i], v[i + 1] = bxor(v[i], v[j]), bxor(v[i + 1], v[j + 1])
end

local function sip_half(v, a, b, c, d, n, m)
	sip_add(v, a, b)
	sip_add(v, c, d)
	sip_rotl(v, b, n)
	sip_rotl(v, d, m)
	sip_xor(v, b, a)
	sip_xor(v, d, c)
	sip_rotl(v, a, 32)
end

local function sip_rounds(v, count)
	for _ = 1, count do
		sip_half(v, 1, 3, 5, 7, 13, 16)
		sip_half(v, 5, 3, 1, 7, 17, 21)
	end
end

local function sip_absorb(v, low, high)
	v[7], v[8] = bxor(v[7], high), bxor(v[8], low)
	sip_rounds(v, 2)
	v[1], v[2] = bxor(v[1], high), bxor(v[2], low)
end

local function sip_out(v)
	local high = bxor(bxor(v[1], v[3]), bxor(v[5], v[7]))
	local low = bxor(bxor(v[2], v[4]), bxor(v[6], v[8]))
	return to_le32(low) .. to_le32(high)
end

function auth.siphash_128(key, data)
	local k0l, k0h, k1l, k1h = le32(key, 1), le32(key, 5), le32(key, 9), le32(key, 13)
	local v = {
		bxor(k0h, 0x736f6d65), bxor(k0l, 0x70736575), bxor(k1h, 0x646f7261), bxor(bxor(k1l, 0x6e646f6d), 0xee),
		bxor(k0h, 0x6c796765), bxor(k0l, 0x6e657261), bxor(k1h, 0x74656462), bxor(k1l, 0x79746573),
	}
	local length = #data
	data = data .. ("\0"):rep(7 - length % 8) .. string.char(length % 256)
	for at = 1, #data, 8 do
		sip_absorb(v, le32(data, at), le32(data, at + 4))
	end
	v[6] = bxor(v[6], 0xee)
	sip_rounds(v, 4)
	local first = sip_out(v)
	v[4] = bxor(v[4], 0xdd)
	sip_rounds(v, 4)
	return first .. sip_out(v)
end

-- By DP_AUTH: the 16-byte tag over M.
auth.tag = {
	[0] = function(key, m) return auth.hmac_sha256(key, m):sub(1, 16) end,
	[1] = function(key, m) return auth.hmac_sha256(key, m):sub(1, 16) end,
	[2] = function(key, m) return auth.blake2s_128(key, m) end,
	[3] = function(key, m) return auth.siphash_128(key:sub(1, 16), m) end,
}
