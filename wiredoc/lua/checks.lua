-- Rules across fields that the codec holds in Python (`complaint`): those that a capture can show.

local function same(a, b)
	return a and b and a:raw() == b:raw()
end

local function other_lease(r)
	if not same(r.spans.lease_id, r.spans["header.lease_id"]) then
		return "the payload's lease is not the header's"
	end
end

local function data_with_status(r)
	if r.values.status ~= 0 and (r.values.length or r.values.block_count or 0) ~= 0 then
		return "data with a status other than OK"
	end
end

local function bit_set(flags, bit)
	return math.floor(flags / bit) % 2 == 1
end

local function fragment_rules(v)
	local stop = v.frag_offset + v.payload_len
	if stop > v.frag_total_len then
		return "the fragment goes past frag_total_len"
	end
	if not bit_set(v.flags, FLAG.CONTINUED) and not bit_set(v.flags, FLAG.FINAL) then
		return (v.frag_offset ~= 0 or stop ~= v.frag_total_len) and "an unfragmented frame must be the whole payload"
	end
	return bit_set(v.flags, FLAG.FINAL) ~= (stop == v.frag_total_len)
		and "FINAL must be set on the last fragment, and only there"
end

local function length_of(r, name)
	return r.places[name] and r.places[name][2] or 0
end

function CHECKS.frame(r)
	local v = r.values
	if bit_set(v.flags, FLAG.CONTINUED) and bit_set(v.flags, FLAG.FINAL) then
		return "CONTINUED and FINAL are both set"
	end
	if r.ctx.quic and math.floor(v.flags / 2) > 0 then
		return "fragment flags and COMPRESSED are errors on QUIC"
	end
	return bit_set(v.flags, FLAG.FRAG_V2) and fragment_rules(v)
end

function CHECKS.filter(r)
	local field, op = r.values.field, r.values.op
	if field >= FIRST_EXTENSION_FIELD then
		return nil
	end
	if not FILTER_OPS[field] then
		return "the filter field is not assigned"
	end
	return not FILTER_OPS[field][op] and "the filter field does not take this op"
end

function CHECKS.solicit(r)
	return r.values.filters_count > 0 and r.values.query_type == 0 and "filters with query_type 0"
end

function CHECKS.solicit_retry(r)
	return length_of(r, "cookie") ~= COOKIE_SIZE and "the cookie is not 32 bytes"
end

function CHECKS.request(r)
	return r.ctx.quic and r.values.has_presenter ~= 0 and "has_presenter is 0 on QUIC"
end

function CHECKS.gpu_submit_params(r)
	return r.values.arg_sizes_sum ~= length_of(r, "args") and "the sum of arg_sizes is not the length of args"
end

function CHECKS.scheduler_fence_get_result(r)
	return r.values.installed == 0 and r.spans.epoch:uint64() ~= UInt64(0) and "an epoch without a fence"
end

function CHECKS.source_ip(r)
	local length = length_of(r, "source_ip")
	return length ~= 4 and length ~= 16 and "SOURCE_IP is 4 or 16 bytes"
end

function CHECKS.lease_affinity(r)
	local size = TARGET_SIZES[r.values.target_type]
	if size then
		return length_of(r, "target") ~= size and ("the affinity target is not %d bytes"):format(size)
	end
	return r.spans.target and not valid_utf8(r.spans.target:raw()) and "the trust domain is not UTF-8"
end

CHECKS.fbmu_hello, CHECKS.fbbu_hello = other_lease, other_lease
CHECKS.fbmu_read_resp, CHECKS.fbbu_read_block_resp = data_with_status, data_with_status
