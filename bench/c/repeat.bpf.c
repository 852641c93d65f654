// SPDX-License-Identifier: Apache-2.0
/*
 * One question again and again, for BPF_PROG_TEST_RUN with `repeat`: the answer is written over the question and its
 * nonce is taken, so each run puts frame and window back as they were. What that costs is measured alone.
 *
 * How far to go is asked for at run time (enum part, xdp_repeat.Part), so that one load serves for the whole table of
 * costs: the parts are dataplane.h's own, in its order, for a READ that is answered.
 */
#include "dataplane.h"

#define TEMPLATE 128

enum part { RESTORED, FOUND, TAG_HELD, JUDGED, NONCE_TAKEN, HEADS_WRITTEN, DATA_COPIED, ANSWER_TAGGED, COUNTED, WHOLE };

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u8[TEMPLATE]);
} template SEC(".maps"); /* 0: the frame's first bytes; 1: its first byte is an enum part */

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

static __always_inline int answer_parts(struct xdp_md *ctx, struct lease_slot *slot, struct question *q, __u32 last)
{
	if (write_heads(ctx, slot, q))
		return XDP_ABORTED;
	if (last == HEADS_WRITTEN)
		return XDP_TX;
	if (last == DATA_COPIED)
		return copy_question(ctx, slot, q, TO_PACKET) ? XDP_ABORTED : XDP_TX;
	if (write_body(ctx, slot, q))
		return XDP_ABORTED;
	if (last >= COUNTED)
		count_answer(slot, q);
	return XDP_TX;
}

static __noinline int take_parts(struct xdp_md *ctx, __u32 last)
{
	struct question q = {};
	struct lease_slot *slot;

	if (last == RESTORED)
		return XDP_TX;
	if (read_question(ctx, &q))
		return XDP_ABORTED;
	slot = bpf_map_lookup_elem(&slots, &q.slot);
	if (!slot)
		return XDP_ABORTED;
	if (last == FOUND)
		return XDP_TX;
	if (!tag_holds(ctx, slot, &q))
		return XDP_ABORTED;
	if (last == TAG_HELD)
		return XDP_TX;
	judge_question(slot, &q);
	if (q.status || growth(ctx, &q))
		return XDP_ABORTED;
	if (last == JUDGED)
		return XDP_TX;
	if (window_take(slot, q.nonce) != NONCE_FRESH)
		return XDP_ABORTED;
	return last == NONCE_TAKEN ? XDP_TX : answer_parts(ctx, slot, &q, last);
}

static __noinline int take_whole(struct xdp_md *ctx)
{
	return take_frame(ctx);
}

SEC("xdp")
int fabricbios(struct xdp_md *ctx)
{
	__u32 one = 1;
	__u8 *last = bpf_map_lookup_elem(&template, &one);

	if (!last || restore(ctx))
		return XDP_ABORTED;
	return *last == WHOLE ? take_whole(ctx) : take_parts(ctx, *last);
}

char _license[] SEC("license") = "Apache-2.0";
