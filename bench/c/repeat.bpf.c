// SPDX-License-Identifier: Apache-2.0
/*
 * One question again and again, for BPF_PROG_TEST_RUN with `repeat`: the answer is written over the question and its
 * nonce is taken, so each run puts frame and window back as they were. What that costs is measured alone.
 */
#include "dataplane.h"

#define TEMPLATE 128

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u8[TEMPLATE]);
} template SEC(".maps"); /* 0: the frame's first bytes; 1: a first byte that is not 0 says to restore and no more */

static __always_inline int restore(struct xdp_md *ctx)
{
	__u32 zero = 0;
	void *frame = bpf_map_lookup_elem(&template, &zero);
	struct lease_slot *slot = bpf_map_lookup_elem(&slots, &zero);

	if (!frame || !slot || bpf_xdp_store_bytes(ctx, 0, frame, TEMPLATE))
		return -1;
	slot->highest = 0;
	slot->write_mark = 0;
	slot->window[0] = 0;
	return 0;
}

SEC("xdp")
int fabricbios(struct xdp_md *ctx)
{
	__u32 one = 1;
	__u8 *only = bpf_map_lookup_elem(&template, &one);

	if (!only || restore(ctx))
		return XDP_ABORTED;
	return *only ? XDP_PASS : take_frame(ctx);
}

char _license[] SEC("license") = "Apache-2.0";
