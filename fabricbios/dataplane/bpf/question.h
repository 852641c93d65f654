/* SPDX-License-Identifier: Apache-2.0 */
/* What a datagram asks, and what the lease says to it: D10's checks but for tag, window and write order. */
#ifndef FABRICBIOS_QUESTION_H
#define FABRICBIOS_QUESTION_H

#include "lease.h"
#include "packet.h"
#include "protocol.h"
#include "tag.h"

#define NOT_OURS -1
#define MAGIC_FBMU bpf_htonl(0x46424d55)
#define MAGIC_FBBU bpf_htonl(0x46424255)

/*
 * Filled step by step. Each step is a global function, which the verifier walks once and which has a stack frame of
 * its own only while it runs.
 */
struct question {
	struct place place;
	struct tagging tagging;
	__u64 nonce;
	__u64 offset;
	__u32 plane;
	__u32 slot;
	__u32 payload_len;
	__u32 op;
	__u32 length; /* of the data it is about */
	__u32 status;
	__u32 answer; /* payload bytes of the answer */
};

static __always_inline int is_io(__u32 op)
{
	return op == DP_OP_READ || op == DP_OP_WRITE;
}

/* Bytes of parameters that an op starts with; more than any payload for what is no question. */
static __always_inline __u32 params_of(__u32 op)
{
	if (is_io(op))
		return PARAMS;
	if (op == DP_OP_HELLO)
		return HELLO_PARAMS;
	return op == DP_OP_PING ? 0 : MAX_PAYLOAD + 1;
}

static __always_inline int header_is_sound(const header_words *h, const struct question *q, __u32 magic)
{
	__u32 limit = q->place.v6 ? MAX_DATAGRAM_V6 : MAX_DATAGRAM_V4;

	if (q->place.payload < HEADER || q->place.payload > limit)
		return 0;
	if (*(__u32 *)h->magic != magic || h->version != VERSION || h->flags)
		return 0;
	if (q->payload_len != q->place.payload - HEADER || q->payload_len < params_of(q->op))
		return 0;
	return q->nonce && (h->request_id || !is_io(q->op));
}

static __always_inline void read_header(const header_words *h, struct question *q)
{
	q->op = h->op;
	q->payload_len = bpf_ntohl(h->payload_len);
	q->nonce = bpf_be64_to_cpu(h->nonce);
}

/* Read offset and length of READ and WRITE; -1 for a HELLO for another lease. */
static __always_inline int read_params(const header_words *h, void *end, struct question *q)
{
	const __u64 *id = (const __u64 *)h->lease_id, *param = (const __u64 *)(h + 1);

	if (is_io(q->op)) {
		if ((void *)param + PARAMS > end)
			return -1;
		q->offset = bpf_be64_to_cpu(param[0]);
		q->length = bpf_ntohl(*(__u32 *)(param + 1));
	} else if (q->op == DP_OP_HELLO) {
		if ((void *)(param + 2) > end)
			return -1;
		return param[0] == id[0] && param[1] == id[1] ? 0 : -1;
	}
	return 0;
}

/*
 * D10's first two checks, header and lease. Returns 0, an enum drop plus one, or NOT_OURS for frames of others. The
 * place is forgotten before it is used: it has four values, which need not be four ways through all that follows.
 */
__noinline int read_question(struct xdp_md *ctx, struct question *q)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct lease_slot *slot;
	header_words *h;
	__u64 at;
	int found;

	if (!q)
		return NOT_OURS;
	found = parse(data, end, &q->place);
	if (found == PARSED_OTHER)
		return NOT_OURS;
	q->plane = q->place.port == config.fbmu_port ? PLANE_FBMU : PLANE_FBBU;
	if (found != PARSED_OURS)
		return 1 + (found == PARSED_FRAGMENT ? DROP_FRAGMENT : DROP_MALFORMED);
	at = q->place.at;
	FORGET(at);
	h = data + (at & OFFSET_MASK);
	if ((void *)(h + 1) > end)
		return 1 + DROP_MALFORMED;
	q->tagging.at = at;
	read_header(h, q);
	if (!header_is_sound(h, q, q->plane == PLANE_FBMU ? MAGIC_FBMU : MAGIC_FBBU) || read_params(h, end, q))
		return 1 + DROP_MALFORMED;
	slot = lease_find((__u64 *)h->lease_id, &q->slot);
	if (!slot)
		return 1 + DROP_UNKNOWN_LEASE;
	return slot->plane == q->plane ? 0 : 1 + DROP_WRONG_PLANE;
}

/* Payload bytes under the tag of a question: its parameters, and in the FULL modes a WRITE's data. */
static __always_inline __u32 covered_of(const struct question *q, __u32 auth)
{
	if (auth == DP_AUTH_HMAC_HEADER)
		return is_io(q->op) ? PARAMS : 0;
	return q->op == DP_OP_WRITE ? q->payload_len : params_of(q->op);
}

/* LIMITS of the lease, and no more than fits a datagram. */
static __always_inline __u32 limit_of(const struct lease_slot *slot, const struct question *q, __u32 op)
{
	__u32 datagram = q->place.v6 ? MAX_DATAGRAM_V6 : MAX_DATAGRAM_V4;
	__u32 around = HEADER + (op == DP_OP_READ ? READ_RESP_HEAD : PARAMS);
	__u32 lease = op == DP_OP_READ ? slot->max_read : slot->max_write;

	return lease < datagram - around ? lease : datagram - around;
}

/* Length, rights and range of READ and WRITE, in this order. */
static __always_inline __u32 judge_io(const struct lease_slot *slot, const struct question *q)
{
	__u32 right = q->op == DP_OP_READ ? RIGHT_READ : RIGHT_WRITE;
	__u64 length = slot->length;

	if (!q->length || q->length > limit_of(slot, q, q->op))
		return DP_STATUS_BAD_LENGTH;
	if (q->op == DP_OP_WRITE && q->payload_len != PARAMS + q->length)
		return DP_STATUS_BAD_LENGTH;
	if (!(slot->rights & right))
		return DP_STATUS_OUT_OF_RANGE;
	if (q->offset > length || length - q->offset < q->length)
		return DP_STATUS_OUT_OF_RANGE;
	return DP_STATUS_OK;
}

/* Of a block lease its state alone: where its blocks are and what they may be asked is the socket's to know. */
static __always_inline __u32 judge(const struct lease_slot *slot, const struct question *q)
{
	__u64 state = *(volatile __u64 *)&slot->state;

	if (state == SLOT_STATE_FENCED)
		return DP_STATUS_FENCED;
	if (state != SLOT_STATE_ACTIVE || bpf_ktime_get_boot_ns() >= *(volatile __u64 *)&slot->expiry_ns)
		return DP_STATUS_EXPIRED;
	return q->plane == PLANE_FBMU && is_io(q->op) ? judge_io(slot, q) : DP_STATUS_OK;
}

static __always_inline __u32 answer_size(const struct question *q)
{
	switch (q->op) {
	case DP_OP_READ:
		return READ_RESP_HEAD + (q->status ? 0 : q->length);
	case DP_OP_HELLO:
		return HELLO_ACK_SIZE;
	case DP_OP_PING:
		return q->status ? STATUS_SIZE : 0;
	default:
		return STATUS_SIZE;
	}
}

/* State, length, rights and range: what the answer will say and how long it is, before the nonce is taken. */
static __always_inline void judge_question(const struct lease_slot *slot, struct question *q)
{
	q->status = judge(slot, q);
	q->answer = answer_size(q);
}

#endif
