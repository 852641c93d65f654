// SPDX-License-Identifier: Apache-2.0
/*
 * The program of fabricbios.bpf.c with a stopwatch around it: it takes its place while somebody watches, over the same
 * maps, and gives it back (fabricbios/dataplane/trace_xdp.py). So nothing of this is in the way of anybody else.
 *
 * What a datagram was about is read out of the frame once the clock has stopped: for what was answered that is the
 * answer, which was written over its question.
 */
#include "dataplane.h"
#include "trace_gen.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct trace_params);
} trace_params SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct trace_series);
} trace_series SEC(".maps");

/* Where the payload of UDP would begin in this frame; more than OFFSET_MASK if it is none of those that we read. */
static __always_inline __u64 payload_offset(void *data, void *end)
{
	struct ethhdr *eth = data;
	__u64 ip = sizeof(*eth);
	__be16 proto;

	if ((void *)(eth + 1) > end)
		return OFFSET_MASK + 1;
	proto = eth->h_proto;
	if (proto == bpf_htons(ETH_P_8021Q) || proto == bpf_htons(ETH_P_8021AD)) {
		struct vlan_tag *vlan = (void *)(eth + 1);

		if ((void *)(vlan + 1) > end)
			return OFFSET_MASK + 1;
		proto = vlan->proto;
		ip += sizeof(*vlan);
	}
	if (proto == bpf_htons(ETH_P_IP))
		return ip + IPV4_HEADER + UDP_HEADER;
	return proto == bpf_htons(ETH_P_IPV6) ? ip + IPV6_HEADER + UDP_HEADER : OFFSET_MASK + 1;
}

static __always_inline struct dp_header *header_in(void *data, void *end)
{
	__u64 at = payload_offset(data, end);
	struct dp_header *h;

	FORGET(at);
	if (at > OFFSET_MASK)
		return 0;
	h = data + at;
	return (void *)(h + 1) > end ? 0 : h;
}

static __always_inline __u32 plane_of(const struct dp_header *h)
{
	__u32 magic = *(__u32 *)h->magic;

	if (magic == MAGIC_FBMU)
		return TRACED_PLANE_FBMU;
	return magic == MAGIC_FBBU ? TRACED_PLANE_FBBU : TRACED_PLANE_OTHER;
}

/* Questions and answers differ in their last digit; ERROR is what an answer to PING may be. */
static __always_inline __u32 op_of(const struct dp_header *h)
{
	switch (h->op) {
	case DP_OP_HELLO:
	case DP_OP_HELLO_ACK:
		return TRACED_HELLO;
	case DP_OP_READ:
	case DP_OP_READ_RESP:
		return TRACED_READ;
	case DP_OP_WRITE:
	case DP_OP_WRITE_RESP:
		return TRACED_WRITE;
	case DP_OP_PING:
	case DP_OP_PONG:
	case DP_OP_ERROR:
		return TRACED_PING;
	default:
		return TRACED_OTHER;
	}
}

/* PONG has no payload and never refuses; every other answer begins with its status. */
static __always_inline __u32 outcome_of(const struct dp_header *h, void *end, __u32 action)
{
	const __u8 *status = (const __u8 *)(h + 1);

	if (action == XDP_DROP)
		return OUTCOME_DROPPED;
	if (action != XDP_TX)
		return OUTCOME_PASSED;
	if (h->op == DP_OP_PONG || (void *)(status + 1) > end)
		return OUTCOME_ANSWERED;
	return *status == DP_STATUS_OK ? OUTCOME_ANSWERED : OUTCOME_REFUSED;
}

static __always_inline int is_wanted(const struct trace_params *params, const struct dp_header *h)
{
	const __u64 *wanted = (const __u64 *)params->lease_id, *id;

	if (!wanted[0] && !wanted[1])
		return 1;
	if (!h)
		return 0;
	id = (const __u64 *)h->lease_id;
	return id[0] == wanted[0] && id[1] == wanted[1];
}

static __always_inline __u32 log2_of(__u64 x)
{
	__u32 found = 0;

	for (__u32 step = 32; step; step >>= 1)
		if (x >> step) {
			x >>= step;
			found += step;
		}
	return found;
}

/* trace.bucket_of */
static __always_inline __u32 bucket_of(__u64 ns)
{
	__u32 octave, bucket;

	if (ns < 1 << TRACE_FINE_BITS)
		return ns;
	octave = log2_of(ns) - TRACE_FINE_BITS;
	bucket = (octave << TRACE_FINE_BITS) + (__u32)(ns >> octave);
	return bucket < TRACE_BUCKETS ? bucket : TRACE_BUCKETS - 1;
}

__noinline int add_to_series(__u32 number, __u64 ns)
{
	struct trace_series *series = bpf_map_lookup_elem(&trace_series, &number);
	__u64 bucket = bucket_of(ns);

	FORGET(bucket);
	if (!series || bucket >= TRACE_BUCKETS)
		return 0;
	series->buckets[bucket]++;
	series->sum_ns += ns;
	if (ns > series->max_ns)
		series->max_ns = ns;
	return 0;
}

__noinline int trace_frame(struct xdp_md *ctx, __u32 action, __u64 began, __u64 ended)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct dp_header *h = header_in(data, end);
	__u32 zero = 0, plane = TRACED_PLANE_OTHER, op = TRACED_OTHER, outcome = OUTCOME_PASSED;
	struct trace_params *params = bpf_map_lookup_elem(&trace_params, &zero);

	if (!params || ended >= *(volatile __u64 *)&params->until_ns || !is_wanted(params, h))
		return 0;
	if (h)
		plane = plane_of(h);
	if (plane != TRACED_PLANE_OTHER) {
		op = op_of(h);
		outcome = outcome_of(h, end, action);
	} else if (action == XDP_DROP) {
		outcome = OUTCOME_DROPPED;
	}
	return add_to_series((plane * TRACE_OPS + op) * TRACE_OUTCOMES + outcome, ended - began);
}

SEC("xdp")
int fabricbios(struct xdp_md *ctx)
{
	__u64 began = bpf_ktime_get_boot_ns();
	int action = take_frame(ctx);

	trace_frame(ctx, action, began, bpf_ktime_get_boot_ns());
	return action;
}

char _license[] SEC("license") = "Apache-2.0";
