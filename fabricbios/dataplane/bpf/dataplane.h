/* SPDX-License-Identifier: Apache-2.0 */
/*
 * FBMU answered, and FBBU filtered, before a socket exists (D10).
 *
 * The order is D10's: header, lease, tag, window, state, length, rights and range, write order. Until the window
 * nothing changes. A datagram whose answer does not fit (an unpadded READ, where the driver has no room behind the
 * packet) goes on to the socket as it came, its tag proven and its nonce not taken; user space hands it to this very
 * program by a test run, where there is always room. So there is one window, and nothing that user space would have to
 * believe of a datagram because of the way it came.
 *
 * FBBU: what is forged or replayed ends here; the rest is the socket's, which checks all of it again and takes the
 * nonces. Only where nobody has the socket any more, and so nobody else takes them, is it answered here that a lease
 * is over.
 */
#ifndef FABRICBIOS_DATAPLANE_H
#define FABRICBIOS_DATAPLANE_H

#include "answer.h"
#include "copy.h"
#include "lease.h"
#include "maps.h"
#include "packet.h"
#include "protocol.h"
#include "question.h"
#include "socket.h"
#include "tag.h"
#include "window.h"

static __always_inline struct dp_counters *counters_of_this_cpu(__u32 plane)
{
	__u32 record = config.record + (plane == PLANE_FBBU ? FBBU_RECORDS : 0);

	return bpf_map_lookup_elem(&counters, &record);
}

__noinline int dropped(__u32 plane, __u32 reason)
{
	struct dp_counters *c = counters_of_this_cpu(plane);

	if (c && reason < 16)
		c->drops[reason]++;
	return XDP_DROP;
}

/*
 * What is for no lease of ours is dropped only where the frame is for this very station: a bridge or a machine in
 * promiscuous mode may carry the questions of other nodes.
 */
__noinline int refused(struct xdp_md *ctx, __u32 plane, __u32 reason)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u32 ifindex = ctx->ingress_ifindex;
	__u16 *own = bpf_map_lookup_elem(&stations, &ifindex), *to = data;

	if (data + sizeof(struct ethhdr) > end)
		return XDP_PASS;
	if (own && (own[0] != to[0] || own[1] != to[1] || own[2] != to[2]))
		return XDP_PASS;
	return dropped(plane, reason);
}

/* Data has no other guard than the UDP checksum under HMAC_HEADER; a tag is the better one elsewhere. */
static __always_inline int has_bare_data(const struct lease_slot *slot, const struct question *q)
{
	return slot->auth == DP_AUTH_HMAC_HEADER && q->op == DP_OP_WRITE;
}

/* IPv6 wants a checksum, IPv4's may be absent, but where data would go without any guard. */
static __always_inline int wants_checksum(const struct lease_slot *slot, const struct question *q)
{
	return q->place.v6 || (slot->auth == DP_AUTH_HMAC_HEADER && q->op == DP_OP_READ && !q->status);
}

static __always_inline int tag_holds(struct xdp_md *ctx, const struct lease_slot *slot, struct question *q)
{
	q->tagging.covered = covered_of(q, slot->auth);
	return !tag_make(ctx, slot, &q->tagging) && !compare_tag(ctx, &q->tagging);
}

/*
 * Carry out a WRITE whose turn it is. Order and data are one step under a lock that nobody waits for: a late WRITE
 * on another CPU could else check first and copy last. Who finds it taken is BUSY, and asks again.
 */
__noinline int write_in_order(struct xdp_md *ctx, struct lease_slot *slot, const struct question *q)
{
	int status = DP_STATUS_OK;

	if (!slot || !q)
		return DP_STATUS_INTERNAL;
	if (__sync_val_compare_and_swap(&slot->write_lock, 0, 1))
		return DP_STATUS_BUSY;
	if (q->nonce <= *(volatile __u64 *)&slot->write_mark)
		status = DP_STATUS_STALE_WRITE;
	else if (copy_question(ctx, slot, q, TO_MEMORY))
		status = DP_STATUS_INTERNAL;
	else
		*(volatile __u64 *)&slot->write_mark = q->nonce;
	__sync_lock_test_and_set(&slot->write_lock, 0);
	return status;
}

static __always_inline void count_answer(struct lease_slot *slot, const struct question *q)
{
	struct dp_counters *c = counters_of_this_cpu(q->plane);
	__u32 op = q->op >> 4; /* 0x01, 0x10, 0x20, 0x30 are 0 to 3 of enum counted: the assertions below */

	if (!c)
		return;
	c->requests[op & 7]++;
	c->statuses[q->status & 15]++;
	if (q->status)
		__sync_fetch_and_add(&slot->kernel_rejects, 1);
	else if (q->op == DP_OP_READ) {
		c->bytes_read += q->length;
		__sync_fetch_and_add(&slot->kernel_reads, 1);
		__sync_fetch_and_add(&slot->kernel_bytes, q->length);
	} else if (q->op == DP_OP_WRITE) {
		c->bytes_written += q->length;
		__sync_fetch_and_add(&slot->kernel_writes, 1);
		__sync_fetch_and_add(&slot->kernel_bytes, q->length);
	}
}

_Static_assert(DP_OP_HELLO >> 4 == COUNTED_HELLO && DP_OP_READ >> 4 == COUNTED_READ, "count_answer");
_Static_assert(DP_OP_WRITE >> 4 == COUNTED_WRITE && DP_OP_PING >> 4 == COUNTED_PING, "count_answer");

/* A READ's data and the tag. */
static __always_inline int write_body(struct xdp_md *ctx, struct lease_slot *slot, struct question *q)
{
	q->tagging.covered = q->answer;
	if (q->op == DP_OP_READ && !q->status) {
		if (slot->auth == DP_AUTH_SIPHASH_FULL &&
		    !tag_siphash_read(ctx, slot, &q->tagging, slot->base + q->offset))
			return put_tag(ctx, &q->tagging);
		if (copy_question(ctx, slot, q, TO_PACKET))
			return -1;
	}
	return write_tag(ctx, slot, q);
}

/* The tag held and the nonce is taken: answer, whatever the answer is. */
static __always_inline int answer(struct xdp_md *ctx, struct lease_slot *slot, struct question *q)
{
	int longer;

	if (q->op == DP_OP_WRITE && !q->status)
		q->status = write_in_order(ctx, slot, q);
	longer = growth(ctx, q);
	if (longer && bpf_xdp_adjust_tail(ctx, longer))
		return dropped(q->plane, DROP_INTERNAL);
	if (write_heads(ctx, slot, q))
		return dropped(q->plane, DROP_INTERNAL);
	if (write_body(ctx, slot, q))
		return dropped(q->plane, DROP_INTERNAL);
	if (wants_checksum(slot, q) && answer_checksum(ctx, &q->place, q->answer))
		return dropped(q->plane, DROP_INTERNAL);
	count_answer(slot, q);
	return XDP_TX;
}

/* What is seen already ends here; a fresh nonce is the socket's to take, who sees the other ways to it as well. */
__noinline int left_to_socket(struct lease_slot *slot, const struct question *q)
{
	struct dp_counters *c;
	int verdict;

	if (!slot || !q)
		return XDP_PASS;
	verdict = window_peek(slot, q->nonce);
	if (verdict != NONCE_FRESH)
		return dropped(q->plane, verdict);
	c = counters_of_this_cpu(q->plane);
	if (c)
		c->passed++;
	return XDP_PASS;
}

/* Of the block plane the program has one answer: that the lease is over, where nobody is left to give it. */
static __always_inline int is_the_sockets(struct xdp_md *ctx, const struct question *q)
{
	return q->plane == PLANE_FBBU && (!q->status || has_socket(ctx, &q->place));
}

/* The tag held: take the nonce, or leave a datagram whose answer does not fit to user space. */
static __always_inline int serve(struct xdp_md *ctx, struct lease_slot *slot, struct question *q)
{
	int longer, verdict;

	judge_question(slot, q);
	if (is_the_sockets(ctx, q))
		return left_to_socket(slot, q);
	longer = growth(ctx, q);
	if (longer > 0 && bpf_xdp_adjust_tail(ctx, longer))
		return left_to_socket(slot, q);
	verdict = window_take(slot, q->nonce);
	if (verdict != NONCE_FRESH)
		return dropped(q->plane, verdict);
	return answer(ctx, slot, q);
}

static __always_inline int take_frame(struct xdp_md *ctx)
{
	struct question q = {};
	struct lease_slot *slot;
	int verdict = read_question(ctx, &q);

	if (verdict == NOT_OURS)
		return XDP_PASS;
	if (verdict)
		return refused(ctx, q.plane, verdict - 1);
	slot = bpf_map_lookup_elem(&slots, &q.slot);
	if (!slot)
		return dropped(q.plane, DROP_INTERNAL);
	if (has_bare_data(slot, &q) && verify_checksum(ctx, &q.place))
		return dropped(q.plane, DROP_CHECKSUM);
	if (!tag_holds(ctx, slot, &q))
		return dropped(q.plane, DROP_BAD_TAG);
	return serve(ctx, slot, &q);
}

#endif
