// SPDX-License-Identifier: Apache-2.0
/*
 * Fresh authentic questions for BPF_PROG_TEST_RUN with BPF_F_TEST_XDP_LIVE_FRAMES, which sends what XDP_TX says through
 * the interface. The kernel does not put a page's bytes back before it uses the page again, so each run writes the next
 * of the questions that were made beforehand, nonces 1, 2, 3 ...; after the last, the window starts anew.
 */
#include "dataplane.h"

#define FRAME 170 /* Ethernet, IPv4, UDP, a READ of 64 bytes, padded: 42 + 56 + 72 */

struct turn {
	__u32 next; /* which question */
	__u32 count; /* how many there are */
	__u32 serves; /* 0: send the question as it is, which is what it costs without us */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u8[176]);
} frames SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct turn);
} turns SEC(".maps");

static __noinline int start_anew(struct lease_slot *slot, struct turn *turn)
{
	turn->next = 0;
	slot->highest = 0;
	for (int i = 0; i < WINDOW_WORDS; i++)
		slot->window[i] = 0;
	return 0;
}

SEC("xdp")
int fabricbios(struct xdp_md *ctx)
{
	__u32 zero = 0;
	struct turn *turn = bpf_map_lookup_elem(&turns, &zero);
	struct lease_slot *slot = bpf_map_lookup_elem(&slots, &zero);
	void *frame;

	if (!turn || !slot)
		return XDP_ABORTED;
	if (turn->next >= turn->count)
		start_anew(slot, turn);
	frame = bpf_map_lookup_elem(&frames, &turn->next);
	turn->next++;
	if (!frame || bpf_xdp_store_bytes(ctx, 0, frame, FRAME))
		return XDP_ABORTED;
	return turn->serves ? take_frame(ctx) : XDP_TX;
}

char _license[] SEC("license") = "Apache-2.0";
